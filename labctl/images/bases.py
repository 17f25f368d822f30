"""Bases: distributors' disk images, pulled or imported. Images are made from them; labs run on images."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from pydantic import ValidationError

from labctl.base import files, paths, signals
from labctl.base.errors import LabError
from labctl.base.progress import Transfer
from labctl.base.types import Model
from labctl.images import qcow2
from labctl.plan import guests
from labctl.plan.guests import Guest, Source

if TYPE_CHECKING:
    from labctl.images.download import Patience

_MANIFEST = "manifest.json"
_DISK = "disk.qcow2"


class Manifest(Model):
    """Where a base comes from."""

    guest: str
    origin: str
    """The URL it was pulled from, or the path of the file it is a copy of."""
    sha256: str
    size: int
    """Bytes"""
    verified: bool
    """Whether the digest is that of one of the guest's sources; if not, the user chose '--unverified'."""
    added: datetime


class Base(Model):
    """A base in the store."""

    path: Path
    manifest: Manifest

    @property
    def disk(self) -> Path:
        """The distributor's qcow2, unchanged."""
        return self.path / _DISK


def bases() -> list[Base]:
    """All bases, by the names of their guests."""
    # A link that is about to become a name begins with a dot.
    return [_open(link) for link in sorted(paths.bases().glob("[!.]*")) if link.is_symlink()]


def exists(name: str) -> bool:
    """Whether there is a base of a guest, even a damaged one."""
    return (paths.bases() / name).is_symlink()


def find(name: str) -> Base:
    """The base of a guest. Raises LabError if there is none, or if it is damaged."""
    if not exists(name):
        raise LabError(f"There is no base of '{name}' in the store.", hint=f"'labctl image pull {name}' gets it.")
    base = _open(paths.bases() / name)
    if not base.disk.is_file() or base.disk.stat().st_size != base.manifest.size:
        raise LabError(f"The base of '{name}' is damaged: '{base.disk}' is not what was put there.",
                       hint=f"'labctl image pull {name}' gets it anew.")
    return base


def pull(guest: Guest, mirror: str | None, transfer: Transfer, patience: "Patience | None" = None) -> Base:
    """Download a guest's base from the first of its sources that has it. Does nothing if a verified one exists.

    `mirror` is a URL that replaces the sources' own. Raises LabError if the guest has no sources, if none of them has
    the file, if the connection breaks for good, if the file is the wrong one, and if the disk is full; the store is
    then unchanged. After a broken connection or an interruption the next pull resumes the download.
    """
    from labctl.images import download  # noqa: PLC0415 (requests takes a third of the time that most commands take)

    sources = [source.model_copy(update={"mirror": mirror} if mirror else {}) for source in _sources(guest)]
    with _locked(guest.name) as root:
        if _is_verified(guest.name):
            transfer.say(f"The base of '{guest.name}' is there already.")
            return find(guest.name)
        part = root / f".{guest.name}.part"
        while True:
            source = sources.pop(0)
            try:
                download.fetch(source, part, qcow2.judge, transfer, patience or download.Patience())
                break
            except download.Unavailable as error:
                if not sources:
                    raise
                transfer.say(error.message)
        size = part.stat().st_size
        with files.filling(root, size):
            work = Path(tempfile.mkdtemp(prefix=f"{guest.name}_", dir=root))
            part.rename(work / _DISK)
            _place(root, work, Manifest(guest=guest.name, origin=source.url, sha256=source.sha256, size=size,
                                        verified=True, added=_now()))
    return find(guest.name)


def import_(guest: Guest, file: Path, unverified: bool) -> Base:
    """Copy a file into the store as a guest's base, replacing an earlier one.

    Raises LabError if the guest has no sources, if the file is not a sound qcow2 image, if its digest is not that of a
    source (unless `unverified`), and if the disk is full; the store is then unchanged.
    """
    sources = _sources(guest)
    if not file.is_file():
        raise LabError(f"There is no file '{file}'.")
    qcow2.check(file, str(file))
    size = file.stat().st_size
    with _locked(guest.name) as root, files.filling(root, size):
        work = Path(tempfile.mkdtemp(prefix=f"{guest.name}_", dir=root))
        files.copy(file, work / _DISK)
        found = files.sha256(work / _DISK)
        verified = found in [source.sha256 for source in sources]
        if not verified and not unverified:
            known = ", ".join(f"{Path(source.path).name} ({source.sha256})" for source in sources)
            raise LabError(f"'{file}' is not an image of '{guest.name}' that labctl knows: its sha256 is {found}.",
                           hint=f"Known: {known}. '--unverified' imports the file all the same.")
        _place(root, work, Manifest(guest=guest.name, origin=str(file.resolve()), sha256=found, size=size,
                                    verified=verified, added=_now()))
        _forget_part(root, guest.name)
    return find(guest.name)


def remove(name: str) -> bool:
    """Remove the base of a guest and any partial download of it; returns whether there was anything to remove."""
    if name not in guests.names() or not paths.bases().is_dir():
        return False
    with _locked(name) as root:
        there = exists(name)
        (root / name).unlink(missing_ok=True)
        return _forget_part(root, name) or there


def _sources(guest: Guest) -> list[Source]:
    if not guest.sources:
        raise LabError(f"There is nothing to pull or import for '{guest.name}'.",
                       hint=f"'labctl image build {guest.name}' makes its image.")
    return guest.sources


def _is_verified(name: str) -> bool:
    try:
        return find(name).manifest.verified
    except LabError:
        return False


def _open(link: Path) -> Base:
    try:
        manifest = Manifest.model_validate_json((link / _MANIFEST).read_bytes())
    except (OSError, ValidationError):
        raise LabError(f"The base of '{link.name}' is damaged: its manifest cannot be read.",
                       hint=f"'labctl image pull {link.name}' gets it anew.") from None
    return Base(path=link.resolve(), manifest=manifest)


@contextmanager
def _locked(name: str) -> Iterator[Path]:
    root = paths.bases()
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / f".{name}.lock", timeout=0):
            try:
                _drop_unnamed(root, name)
                yield root
            finally:
                with signals.passed_over():
                    _drop_unnamed(root, name)
    except Timeout:
        raise LabError(f"Another labctl is pulling, importing or removing the base of '{name}'.",
                       hint="Try again when it is done.") from None


def _place(root: Path, work: Path, manifest: Manifest) -> None:
    """Finish a directory that contains the disk, and point the guest's name to it instead of to an earlier base."""
    (work / _DISK).chmod(0o444)
    (work / _MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    work.chmod(0o755)
    link = root / f".{manifest.guest}.new"
    link.symlink_to(work.name)
    link.rename(root / manifest.guest)


def _drop_unnamed(root: Path, name: str) -> None:
    (root / f".{name}.new").unlink(missing_ok=True)
    for home in root.glob(f"{name}_*"):  # No guest's name has an underscore.
        if home.resolve() != (root / name).resolve():
            shutil.rmtree(home)


def _forget_part(root: Path, name: str) -> bool:
    found = list(root.glob(f".{name}.part*"))
    for path in found:
        path.unlink()
    return bool(found)


def _now() -> datetime:
    return datetime.now().astimezone().replace(microsecond=0)
