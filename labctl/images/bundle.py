"""Bundles: images, topologies, checkpoints and labctl itself in one file, for machines without a network.

A bundle is a plain tar. Its members, in this order:

    manifest.json           what is in it, with the digests of all other members
    SHA256SUMS              of the manifest and the wheels, for install.sh
    install.sh              installs labctl from the bundle, then runs 'labctl bundle load' for the rest
    wheels/*.whl            labctl and its dependencies
    topologies/NAME.yaml
    checkpoints/LAB/NAME/…
    images/GUEST/FILE       not compressed again, since disks are already
"""

import hashlib
import io
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Annotated, TypeAlias

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError, field_validator

from labctl.base import config, files, paths
from labctl.base.errors import LabError
from labctl.base.process import run
from labctl.base.resources import ROOT
from labctl.base.types import NAME_PATTERN, Line, Model, Name
from labctl.images import store
from labctl.images.store import ImageFile, Manifest
from labctl.language import catalog
from labctl.plan import guests

_DISTRIBUTION = "cluster-labctl"
_INSTALLER = Path(__file__).with_name("bundle-install.sh")
_MANIFEST, _SUMS = "manifest.json", "SHA256SUMS"
_FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+!-]*$"
_BLOCK = 2**20
_MANIFEST_MAX = 2**24
"""In bytes; a limit, because the manifest is read into memory before it can be trusted."""
_TOPOLOGY_MAX = 2**20
_COPY_AGAIN = "Copy it again from where it was made, or make it anew with 'labctl bundle create'."

WheelName = Annotated[str, StringConstraints(pattern=_FILE_NAME)]
CheckpointName = Annotated[str, StringConstraints(pattern=f"{NAME_PATTERN.rstrip('$')}/{NAME_PATTERN.lstrip('^')}")]
"""LAB/NAME"""
CheckpointFile = Annotated[str, StringConstraints(
    pattern=r"^((keys|seeds|consoles|disks)/)?\.?[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Checkpoint(Model):
    """A checkpoint in a bundle, of which this module knows nothing but its files."""

    made: AwareDatetime
    files: dict[CheckpointFile, ImageFile]


Receive: TypeAlias = Callable[[Mapping[str, datetime], bool], AbstractContextManager[Mapping[str, Path]]]
"""Gives a directory for the files of each checkpoint (LAB/NAME, and when it was made), and puts them in place."""


class Contents(Model):
    """The manifest of a bundle: what is in it."""

    labctl: Line
    """The version of labctl."""
    python: str = Field(pattern=r"^3\.\d+$")
    """The Python version that the wheels are for."""
    made: datetime
    installer: ImageFile
    wheels: dict[WheelName, ImageFile]
    topologies: dict[Name, ImageFile]
    checkpoints: dict[CheckpointName, Checkpoint]
    images: dict[Name, Manifest] = Field(min_length=1)

    @field_validator("images")
    @classmethod
    def _named_by_their_guests(cls, images: dict[str, Manifest]) -> dict[str, Manifest]:
        if any(image.guest != guest for guest, image in images.items()):
            raise ValueError("an image of another guest")
        return images

    @field_validator("topologies")
    @classmethod
    def _no_larger_than_topologies_are(cls, topologies: dict[str, ImageFile]) -> dict[str, ImageFile]:
        if any(topology.size > _TOPOLOGY_MAX for topology in topologies.values()):
            raise ValueError("a file that is no topology")
        return topologies

    def members(self) -> dict[str, ImageFile]:
        """All members after the manifest and SHA256SUMS, in their order."""
        return {
            "install.sh": self.installer,
            **{f"wheels/{name}": file for name, file in self.wheels.items()},
            **{f"topologies/{name}.yaml": file for name, file in self.topologies.items()},
            **{f"checkpoints/{name}/{path}": file for name, checkpoint in self.checkpoints.items()
               for path, file in checkpoint.files.items()},
            **{f"images/{guest}/{name}": file for guest, image in self.images.items()
               for name, file in image.files.items()},
        }


def fetch_wheels(directory: Path) -> list[Path]:
    """Have pip put labctl and its dependencies into a directory, as wheels for this Python.

    Raises LabError if labctl is offline, if it does not run from a checkout, and if pip fails.
    """
    config.must_be_online("get the packages that it depends on")
    if not (ROOT / "pyproject.toml").is_file():
        # labctl is on no package index; a foreign package that took its name there would get into the bundle.
        raise LabError("A bundle is made in a checkout of labctl, and this one was installed without its sources.",
                       hint="In a checkout, 'scripts/setup' and then '.venv/bin/labctl bundle create FILE' make it.")
    result = run([sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-input",
                  "--retries", "1", "--wheel-dir", directory, ROOT], check=False)
    if result.returncode:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1] if lines else "it said nothing")
        raise LabError(f"labctl and what it depends on could not be packed by pip: {reason.removeprefix('ERROR: ')}",
                       hint="This takes a network, or a directory of wheels that PIP_FIND_LINKS names; to build "
                            "libvirt-python, also a compiler and libvirt's headers.")
    return sorted(directory.glob("*.whl"))


def create(file: Path, names: Sequence[str], topologies: Sequence[Path], overwrite: bool,
           checkpoints: Mapping[str, tuple[Path, datetime]]) -> Contents:
    """Write a bundle with the images of the guests `names`, topology files, checkpoints and labctl.

    A checkpoint is named LAB/NAME, and consists of a directory and when it was made.

    Raises LabError as fetch_wheels does; for an image that is missing, outdated or damaged; for a topology with
    problems or with the name of another one; if there is no room; and if `file` exists (unless `overwrite`). An
    existing `file` is replaced only once the bundle is complete.
    """
    with tempfile.TemporaryDirectory(prefix="labctl-") as directory:
        return _create(file, names, topologies, overwrite, checkpoints, Path(directory))


def load(file: Path, in_use: Collection[str], overwrite: bool, receive: Receive) -> Contents:
    """Put the images of a bundle into the store, its topologies into the user's directory of topologies, and its
    checkpoints where `receive` says.

    Replaced images are kept if their digest is in `in_use`. Raises LabError for a file that is not a bundle or is
    damaged, for a topology or a checkpoint that exists and differs (unless `overwrite`), and if there is no room. The
    whole bundle is checked before anything is put in place, so an error changes nothing.
    """
    with _opened(file) as tar, ExitStack() as stack:
        contents = _contents(tar, file)
        placed = {name: paths.topologies() / f"{name}.yaml" for name in contents.topologies}
        for name, place in placed.items():
            if not overwrite and place.exists() and _measure(place) != contents.topologies[name]:
                raise LabError(f"There is another topology '{name}' already: '{place}'.",
                               hint="'--overwrite' replaces it; nothing was loaded.")
        made = {name: checkpoint.made for name, checkpoint in contents.checkpoints.items()}
        homes = stack.enter_context(receive(made, overwrite))
        paths.topologies().mkdir(parents=True, exist_ok=True)
        new = {name: place.with_name(f".{name}.new") for name, place in placed.items()}
        for path in new.values():
            stack.callback(path.unlink, missing_ok=True)
        with store.receiving(list(contents.images.values()), in_use) as work:
            size = sum(member.size for member in contents.members().values())
            files.check_space(work, size)
            targets = {f"topologies/{name}.yaml": path for name, path in new.items()} | {
                f"images/{guest}/{name}": work / guest / name
                for guest, manifest in contents.images.items() for name in manifest.files} | {
                f"checkpoints/{name}/{path}": homes[name] / path
                for name, checkpoint in contents.checkpoints.items() for path in checkpoint.files}
            with files.filling(work, size):
                _unpack(tar, file, contents.members(), targets)
        for name, path in new.items():
            path.rename(placed[name])
    return contents


def _create(file: Path, names: Sequence[str], topologies: Sequence[Path], overwrite: bool,
            checkpoints: Mapping[str, tuple[Path, datetime]], work: Path) -> Contents:
    file = file.absolute()
    if file.exists() and not overwrite:
        raise LabError(f"There is a '{file}' already.", hint="'--overwrite' replaces it.")
    images = {name: store.current(guests.load(name)) for name in names}
    named: dict[str, Path] = {}
    for path in topologies:
        catalog.load(path)
        name = catalog.lab_name(path, None)
        if name in named:
            raise LabError(f"'{named[name]}' and '{path}' are both called '{name}'.", hint="Rename one of them.")
        named[name] = path
    kept = {name: sorted(path for path in home.rglob("*") if path.is_file())
            for name, (home, _) in checkpoints.items()}
    wheels = fetch_wheels(work)
    contents = Contents(
        labctl=_version(),
        python=f"3.{sys.version_info.minor}",
        made=datetime.now().astimezone().replace(microsecond=0),
        installer=_measure(_INSTALLER),
        wheels={path.name: _measure(path) for path in wheels},
        topologies={name: _measure(path) for name, path in named.items()},
        checkpoints={name: Checkpoint(made=made, files={str(path.relative_to(home)): _measure(path)
                                                        for path in kept[name]})
                     for name, (home, made) in checkpoints.items()},
        images={name: image.manifest for name, image in images.items()},
    )
    sources = [_INSTALLER, *wheels, *named.values(), *(path for paths_ in kept.values() for path in paths_),
               *(image.path / name for image in images.values() for name in image.manifest.files)]
    size = sum(member.size for member in contents.members().values())
    files.check_space(file.parent, size)
    with files.filling(file.parent, size), _replacing(file) as new, tarfile.open(fileobj=new, mode="w") as tar:
        manifest = (contents.model_dump_json(indent=2) + "\n").encode()
        for name, text in ((_MANIFEST, manifest), (_SUMS, _sums(contents, manifest))):
            tar.addfile(_member(name, len(text), contents), io.BytesIO(text))
        for (name, expected), source in zip(contents.members().items(), sources, strict=True):
            with source.open("rb") as opened:
                measured = _Measured(opened)
                tar.addfile(_member(name, expected.size, contents), measured)
            if measured.found != expected:
                raise LabError(f"'{source}' is damaged: it is not what was put there.",
                               hint="'labctl image build' makes an image anew.")
    return contents


def _version() -> str:
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        raise LabError("labctl is not installed, so it does not know its version.",
                       hint="'scripts/setup' installs it into .venv.") from None


def _sums(contents: Contents, manifest: bytes) -> bytes:
    """The text of SHA256SUMS, in sha256sum's format."""
    digests = {_MANIFEST: hashlib.sha256(manifest).hexdigest(),
               **{f"wheels/{name}": wheel.sha256 for name, wheel in contents.wheels.items()}}
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()


class _Measured:
    """Wraps a file that is being read, and computes digest and size of what was read."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._digest = hashlib.sha256()
        self._size = 0

    def read(self, size: int = -1) -> bytes:
        """Read from the file, as io.RawIOBase does."""
        block = self._source.read(size)
        self._digest.update(block)
        self._size += len(block)
        return block

    @property
    def found(self) -> ImageFile:
        """Digest and size so far."""
        return ImageFile(sha256=self._digest.hexdigest(), size=self._size)


def _measure(path: Path) -> ImageFile:
    return ImageFile(sha256=files.sha256(path), size=path.stat().st_size)


def _member(name: str, size: int, contents: Contents) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    member.mtime = int(contents.made.timestamp())
    return member


@contextmanager
def _replacing(file: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the name of `file` at the end of the block, or is removed after an error."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as new:
            yield new
        path.chmod(0o644)
        path.rename(file)
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    """Open a bundle's tar. Raises LabError, also later in the block, if it is not a tar or is damaged."""
    try:
        tar = tarfile.open(file, "r:")  # noqa: SIM115 (what it raises here means something else than later)
    except tarfile.TarError:
        raise _no_bundle(file) from None
    with tar:
        try:
            yield tar
        except (tarfile.TarError, ValueError, OverflowError):  # tarfile raises these for nonsensical fields.
            raise LabError(f"'{file}' is damaged: it cannot be read to its end.", hint=_COPY_AGAIN) from None


def _contents(tar: tarfile.TarFile, file: Path) -> Contents:
    first = _next(tar, _MANIFEST)
    if first is None:
        raise _no_bundle(file)
    manifest = first.read(_MANIFEST_MAX)
    try:
        contents = Contents.model_validate_json(manifest)
    except ValidationError:
        raise LabError(f"'{file}' is damaged, or a bundle of another version of labctl: its manifest cannot be read.",
                       hint=_COPY_AGAIN) from None
    expected = _sums(contents, manifest)
    sums = _next(tar, _SUMS)
    if sums is None or sums.read(len(expected) + 1) != expected:
        raise _damaged(file, _MANIFEST)
    return contents


def _next(tar: tarfile.TarFile, name: str, size: int | None = None) -> IO[bytes] | None:
    """The next member, if it is a plain file of this name and size; never a sparse one, which could exceed the tar."""
    member = tar.next()
    plain = member and member.isreg() and not member.issparse() and member.name == name
    return tar.extractfile(member) if member and plain and size in (None, member.size) else None


def _unpack(tar: tarfile.TarFile, file: Path, expected: Mapping[str, ImageFile], targets: Mapping[str, Path]) -> None:
    """Read all members, which have to be the expected ones in this order, and write those with a target there.

    Names in the tar are never used as paths; paths come from the manifest, which allows plain names only.
    """
    for name, wanted in expected.items():
        source = _next(tar, name, wanted.size)
        if source is None:
            raise _damaged(file, name)
        measured = _Measured(source)
        with targets.get(name, Path(os.devnull)).open("wb") as target:
            shutil.copyfileobj(measured, target, _BLOCK)
        if measured.found != wanted:
            raise _damaged(file, name)
    if extra := tar.next():
        raise LabError(f"'{file}' is damaged: its manifest does not list '{extra.name}'.", hint=_COPY_AGAIN)


def _no_bundle(file: Path) -> LabError:
    return LabError(f"'{file}' is not a bundle of labctl.", hint="'labctl bundle create FILE' makes one.")


def _damaged(file: Path, member: str) -> LabError:
    return LabError(f"'{file}' is damaged: '{member}' in it is not what was put there.", hint=_COPY_AGAIN)
