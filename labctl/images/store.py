"""The image store: content-addressed, one lock, atomic renames."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError, field_validator

from labctl.base import config, namespace, paths, signals
from labctl.base.errors import LabError
from labctl.base.files import sha256
from labctl.base.process import CommandError, run_script
from labctl.base.resources import IMAGES
from labctl.base.suggest import did_you_mean
from labctl.base.types import Model
from labctl.images import bases, builder, qcow2
from labctl.images.builder import RecipeError
from labctl.plan import guests
from labctl.plan.guests import Guest

_MANIFEST = "manifest.json"
_UNREACHABLE = ("Could not resolve", "Temporary failure resolving", "Could not connect", "Unable to connect",
                "Connection refused", "Connection timed out", "Failed to fetch", "Couldn't resolve", "Couldn't connect",
                "Could not retrieve")
_ERRORS = ("E: ", "Error: ", "error: ")
"""How error messages of package managers begin."""


FileName = Literal["disk.qcow2", "vmlinuz", "initrd.img", "media.img", "waiting_args"]
"""All files that an image may have; docs/architecture.md describes them."""
_ARGUMENTS_MAX = 1024


class ImageFile(Model):
    """A file of an image."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    """Bytes"""


class Manifest(Model):
    """What is in an image, and what it was made from."""

    guest: str
    built: datetime
    recipe_sha256: str
    files: dict[FileName, ImageFile]
    packages: dict[str, str]
    base: bases.Manifest | None = None
    """The base that it was made from; None if it was made from packages alone."""

    @field_validator("files")
    @classmethod
    def _an_image(cls, files: dict[FileName, ImageFile]) -> dict[FileName, ImageFile]:
        if "disk.qcow2" not in files:
            raise ValueError("no disk")
        if "waiting_args" in files and files["waiting_args"].size > _ARGUMENTS_MAX:
            raise ValueError("more kernel arguments than a kernel takes")
        return files

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of the image's files."""
        listing = "".join(f"{file.sha256} {name}\n" for name, file in sorted(self.files.items()))
        return hashlib.sha256(listing.encode()).hexdigest()


class Image(Model):
    """An image in the store."""

    name: str
    path: Path
    manifest: Manifest

    @property
    def disk(self) -> Path:
        """The qcow2 that overlays are based on."""
        return self.path / "disk.qcow2"

    @property
    def kernel(self) -> Path | None:
        """For guests that boot directly."""
        return self.path / "vmlinuz" if "vmlinuz" in self.manifest.files else None

    @property
    def initrd(self) -> Path | None:
        """For guests that boot directly."""
        return self.path / "initrd.img" if "initrd.img" in self.manifest.files else None

    @property
    def media(self) -> Path | None:
        """A file system with the only package repository that the lab's machines know."""
        return self.path / "media.img" if "media.img" in self.manifest.files else None

    @property
    def waiting_args(self) -> str:
        """The kernel arguments that make a machine wait for its identity; empty if the image does not support that."""
        return (self.path / "waiting_args").read_text().strip() if "waiting_args" in self.manifest.files else ""

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.manifest.files.values())


def images() -> list[Image]:
    """All images, by name."""
    return [_open(link) for link in _links(paths.images())]


def exists(name: str) -> bool:
    """Whether there is an image of a guest, even a damaged one."""
    return (paths.images() / name).is_symlink()


def find(name: str) -> Image:
    """The image of a guest. Raises LabError if there is none, or if it is damaged."""
    if not exists(name):
        raise LabError(f"There is no image of '{name}' in the store.", hint=_how_to_get(name))
    return _whole(_open(paths.images() / name))


def find_digest(digest: str) -> Image:
    """The image with this digest, also if a newer one has its guest's name now. Raises LabError as `find` does."""
    home = paths.images() / f"sha256-{digest}"
    if not home.is_dir():
        raise LabError(f"The image 'sha256-{digest[:16]}' is not in the store any more.",
                       hint="'labctl down', then 'labctl up' makes the lab anew from the current image.")
    return _whole(_open(home))


def _whole(image: Image) -> Image:
    name = image.name
    for file_name, file in image.manifest.files.items():
        path = image.path / file_name
        if not path.is_file() or path.stat().st_size != file.size:
            raise LabError(f"The image of '{name}' is damaged: '{path}' is not what was built.",
                           hint=f"'labctl image build {name}' makes it anew.")
    return image


def current(guest: Guest) -> Image:
    """The image of a guest. Raises LabError also if another version of its recipe built it."""
    image = find(guest.name)
    if image.manifest.recipe_sha256 != _recipe_digest(IMAGES / guest.recipe, image.manifest.base):
        raise LabError(f"The image of '{guest.name}' was built by another version of its recipe.",
                       hint=f"'labctl image build {guest.name}' makes it anew.")
    return image


def build(guest: Guest, mirror: str | None, log: Path, in_use: Collection[str], iso: Path | None = None,
          say: Callable[[str], None] = lambda _: None) -> Image:
    """Build a guest's image by its recipe, replacing an earlier one.

    Packages come from the installation disc `iso`, if given, and otherwise from `mirror` or the distributor. The
    recipe's output goes to `log`, its progress to `say`. Replaced images are kept if their digest is in `in_use`.
    Raises LabError if the guest's base is missing, if the disc is the wrong one, and if the recipe fails; the store is
    then unchanged.
    """
    recipe = IMAGES / guest.recipe
    base = bases.find(guest.name) if guest.sources else None
    if iso:
        _check_iso(guest, iso)
    mirror = (mirror or guest.packages).rstrip("/")
    config.must_be_online(f"build an image from '{mirror}'")
    with _working() as (root, work):
        try:
            if base:
                builder.customise(guest, base, recipe, {"MIRROR": mirror}, iso, work, log, say)
            else:
                _run_recipe(recipe, work, mirror, log)
        except RecipeError:
            raise _failure(guest, mirror, log) from None
        _place(root, work, _seal(guest, recipe, work, base))
        _drop_unnamed(root, in_use)
    return find(guest.name)


@contextmanager
def receiving(manifests: Collection[Manifest], in_use: Collection[str]) -> Iterator[Path]:
    """A directory for images' files, each image's below its guest's name; they enter the store at the end of the block.

    Replaced images are kept if their digest is in `in_use`. Raises LabError for a disk that is damaged or needs other
    files. After any error, also in the block, the store is unchanged.
    """
    with _working() as (root, work):
        for manifest in manifests:
            (work / manifest.guest).mkdir()
        yield work
        for manifest in manifests:
            _finish(work / manifest.guest, manifest)
        for manifest in manifests:
            _place(root, work / manifest.guest, manifest)
        _drop_unnamed(root, in_use)


def remove(name: str, users: Collection[str]) -> None:
    """Remove an image. Raises LabError if there is none, or if it has `users`, who are named in the message."""
    with _locked() as root:
        link = root / name
        if not link.is_symlink():
            raise LabError(f"There is no image of '{name}' in the store.", hint="'labctl image list' shows them.")
        if users:
            raise LabError(f"The image of '{name}' is in use by {', '.join(sorted(users))}.",
                           hint="'labctl list' and 'labctl checkpoint list' show what has to go first.")
        home = link.resolve()
        link.unlink()
        _remove(home)


def _links(root: Path) -> list[Path]:
    """The names of images: a link for each. One that is about to become a name begins with a dot."""
    return [path for path in sorted(root.glob("[!.]*")) if path.is_symlink()]


def _open(link: Path) -> Image:
    try:
        manifest = Manifest.model_validate_json((link / _MANIFEST).read_bytes())
    except (OSError, ValidationError):
        raise LabError(f"The image of '{link.name}' is damaged: its manifest cannot be read.",
                       hint=f"'labctl image build {link.name}' makes it anew.") from None
    return Image(name=manifest.guest, path=link.resolve(), manifest=manifest)


def _how_to_get(name: str) -> str:
    if name not in guests.names():
        return did_you_mean(name, guests.names())
    guest, instead = guests.load(name), guests.buildable()
    if not guest.sources or bases.exists(name):
        return f"'labctl image build {name}' builds it."
    build = "" if exists(instead.name) else f"'labctl image build {instead.name}' builds one, then "
    return (f"'labctl image pull {name}' gets what it is made of, then 'labctl image build {name}' builds it. "
            f"Or {build}'--guest {instead.name}' (or 'guest: {instead.name}' in {paths.config_file()}) uses "
            f"{instead.title} instead.")


@contextmanager
def _locked() -> Iterator[Path]:
    root = paths.images()
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / ".lock", timeout=0):
            yield root
    except Timeout:
        raise LabError("Another labctl is changing the image store.", hint="Try again when it is done.") from None


def _recipe_digest(recipe: Path, base: object) -> str:
    """The digest of the recipe, and of what recipes share if this one runs on a base."""
    if base is None:
        return sha256(recipe)
    return hashlib.sha256(recipe.with_name(builder.LIBRARY).read_bytes() + recipe.read_bytes()).hexdigest()


def _check_iso(guest: Guest, iso: Path) -> None:
    if not guest.isos:
        raise LabError(f"The image of '{guest.name}' is not built from an installation disc.", hint="Leave out --iso.")
    if not iso.is_file():
        raise LabError(f"There is no file '{iso}'.")
    found = sha256(iso)
    if found not in guest.isos.values():
        known = ", ".join(f"{name} ({digest})" for name, digest in guest.isos.items())
        raise LabError(f"'{iso}' is not an installation disc of {guest.title} that labctl knows: its sha256 is "
                       f"{found}.",
                       hint=f"Known: {known}.")


@contextmanager
def _working() -> Iterator[tuple[Path, Path]]:
    """Lock the store; yields its directory, and a temporary directory in it."""
    with _locked() as root:
        _drop_unfinished(root)
        work = Path(tempfile.mkdtemp(prefix=".building-", dir=root))
        try:
            yield root, work
        finally:
            with signals.passed_over():
                _drop_unfinished(root)


def _drop_unfinished(root: Path) -> None:
    """Remove what a change of the store has left if it was interrupted."""
    for directory in root.glob(".building-*"):
        _remove(directory)
    for link in root.glob(".*.new"):
        link.unlink()


def _run_recipe(recipe: Path, work: Path, mirror: str, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        environment = {"MIRROR": mirror, "SECURITY_MIRROR": f"{mirror}-security"}
        if run_script(["sh", recipe, work], output, environment):
            raise RecipeError("The recipe failed.")


def _failure(guest: Guest, mirror: str, log: Path) -> CommandError:
    """Why a recipe failed, according to its output since the last step."""
    step, lines = builder.last_step(log)
    at = f" at the step '{step}'" if step else ""
    server = urlsplit(mirror).hostname or ""
    if any(sign in line and server in line for line in lines for sign in _UNREACHABLE):
        return CommandError(f"The image of '{guest.name}' could not be built{at}: the mirror '{mirror}' could not be "
                            "reached.", hint=f"'--mirror URL' names another one; the log is '{log}'.")
    errors = [line for line in lines if line.startswith(_ERRORS) or "No space left" in line] or lines[-1:]
    reason = errors[0].removeprefix("E: ") if errors else "it said nothing"
    return CommandError(f"The image of '{guest.name}' could not be built{at}: {reason}",
                        hint=f"'labctl doctor' says what is missing; the log is '{log}'.")


def _seal(guest: Guest, recipe: Path, work: Path, base: bases.Base | None) -> Manifest:
    listing = work / "packages.txt"
    packages = dict(line.split(" ", 1) for line in listing.read_text().splitlines())
    listing.unlink()
    manifest = Manifest(
        guest=guest.name,
        built=datetime.now().astimezone().replace(microsecond=0),
        recipe_sha256=_recipe_digest(recipe, base),
        files={name: ImageFile(sha256=sha256(work / name), size=(work / name).stat().st_size)
               for name in get_args(FileName) if (work / name).exists()},
        packages=packages,
        base=base.manifest if base else None,
    )
    _finish(work, manifest)
    return manifest


def _finish(work: Path, manifest: Manifest) -> None:
    """Check and seal a directory before it enters the store. Raises LabError if its disk is damaged or unsafe."""
    qcow2.check(work / "disk.qcow2", f"disk.qcow2 of {manifest.guest}")
    for path in work.iterdir():
        path.chmod(0o444)
    (work / _MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    work.chmod(0o755)


def _place(root: Path, work: Path, manifest: Manifest) -> None:
    """Move a finished directory to its place, and point its guest's name to it instead of to an earlier image."""
    home = root / f"sha256-{manifest.digest}"
    if home.exists():  # Its files are the same; replaced one by one, they are there at every moment, also for labs.
        for path in work.iterdir():
            path.rename(home / path.name)
    else:
        work.rename(home)
    link = root / f".{manifest.guest}.new"
    link.symlink_to(home.name)
    link.rename(root / manifest.guest)


def _drop_unnamed(root: Path, in_use: Collection[str]) -> None:
    named = {link.resolve() for link in _links(root)}
    for home in root.glob("sha256-*"):
        if home.resolve() not in named and home.name.removeprefix("sha256-") not in in_use:
            _remove(home)


def _remove(directory: Path) -> None:
    """Remove a directory, including files of subordinate ids that an interrupted build left there."""
    if not directory.exists():
        return
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists() and os.getuid():
        with suppress(LabError):
            namespace.run(["rm", "-rf", directory])
