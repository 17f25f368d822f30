"""The image store: content-addressed, one lock, atomic renames."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from labctl import guests, paths
from labctl.errors import LabError
from labctl.guests import Guest
from labctl.process import CommandError, run, run_script
from labctl.resources import IMAGES
from labctl.site import Model
from labctl.suggest import did_you_mean

DEFAULT_MIRROR = "http://deb.debian.org/debian"
_MANIFEST = "manifest.json"
_UNREACHABLE = ("Could not resolve", "Temporary failure resolving", "Could not connect", "Unable to connect",
                "Connection refused", "Connection timed out", "Failed to fetch")


class ImageFile(Model):
    """A file of an image."""

    sha256: str
    size: int
    """Bytes"""


class Manifest(Model):
    """What an image is made of."""

    guest: str
    built: datetime
    recipe_sha256: str
    files: dict[str, ImageFile]
    packages: dict[str, str]

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
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.manifest.files.values())


def images() -> list[Image]:
    """All images, by name."""
    root = paths.images()
    return [_open(link) for link in sorted(root.iterdir()) if link.is_symlink()] if root.is_dir() else []


def find(name: str) -> Image:
    """The image of a guest. Raises LabError if there is none, or if it is not what was put there."""
    link = paths.images() / name
    if not link.is_symlink():
        raise LabError(f"There is no image of '{name}' in the store.", hint=_how_to_get(name))
    image = _open(link)
    for file_name, file in image.manifest.files.items():
        path = image.path / file_name
        if not path.is_file() or path.stat().st_size != file.size:
            raise LabError(f"The image of '{name}' is damaged: '{path}' is not what was built.",
                           hint=f"'labctl image build {name}' makes it anew.")
    return image


def build(guest: Guest, mirror: str, log: Path, in_use: Collection[str]) -> Image:
    """Build a guest's image by its recipe, and put it in the place of the one before.

    What the recipe prints goes to `log`. Images whose digest is in `in_use` are kept. Raises LabError if the
    guest has no recipe or the recipe fails; the store is then as it was.
    """
    if guest.recipe is None:
        raise LabError(f"labctl has no recipe to build an image of '{guest.name}'.", hint=_how_to_get(guest.name))
    recipe = IMAGES / guest.recipe
    with _locked() as root:
        for leftover in root.glob(".building-*"):
            _remove(leftover)
        work = Path(tempfile.mkdtemp(prefix=".building-", dir=root))
        try:
            _run_recipe(guest, recipe, work, mirror, log)
            manifest = _seal(guest, recipe, work)
            home = root / f"sha256-{manifest.digest}"
            if home.exists():
                _remove(home)
            work.rename(home)
        finally:
            _remove(work)
        link = root / f".{guest.name}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(home.name)
        link.rename(root / guest.name)
        _drop_unnamed(root, in_use)
    return find(guest.name)


def remove(name: str, users: Collection[str]) -> None:
    """Remove an image. Raises LabError if there is none, or if the labs in `users` run on it."""
    with _locked() as root:
        link = root / name
        if not link.is_symlink():
            raise LabError(f"There is no image of '{name}' in the store.", hint="'labctl image list' shows them.")
        if users:
            raise LabError(f"The image of '{name}' is in use by {', '.join(sorted(users))}.",
                           hint=f"'labctl down {min(users)}' first.")
        home = link.resolve()
        link.unlink()
        _remove(home)


def _open(link: Path) -> Image:
    try:
        manifest = Manifest.model_validate_json((link / _MANIFEST).read_bytes())
    except (OSError, ValidationError):
        raise LabError(f"The image of '{link.name}' is damaged: its manifest cannot be read.",
                       hint=f"'labctl image build {link.name}' makes it anew.") from None
    return Image(name=link.name, path=link.resolve(), manifest=manifest)


def _how_to_get(name: str) -> str:
    if name not in guests.names():
        return did_you_mean(name, guests.names())
    if guests.load(name).recipe:
        return f"'labctl image build {name}' builds it."
    instead = guests.buildable()
    build = "" if (paths.images() / instead.name).exists() else f"'labctl image build {instead.name}' builds one, then "
    return (f"{build}'--guest {instead.name}' (or 'guest: {instead.name}' in {paths.config_file()}) uses "
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


def _run_recipe(guest: Guest, recipe: Path, work: Path, mirror: str, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    mirror = mirror.rstrip("/")
    with log.open("wb") as output:
        environment = {"MIRROR": mirror, "SECURITY_MIRROR": f"{mirror}-security"}
        status = run_script(["sh", recipe, work], output, environment)
    if status:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if any(sign in line for line in lines for sign in _UNREACHABLE):
            raise CommandError(f"The image of '{guest.name}' could not be built: the mirror '{mirror}' could not be "
                               "reached.", hint=f"'--mirror URL' names another one; the log is '{log}'.")
        errors = [line for line in lines if line.startswith("E: ") or "No space left" in line] or lines[-1:]
        reason = errors[0].removeprefix("E: ") if errors else "it said nothing"
        raise CommandError(f"The image of '{guest.name}' could not be built: {reason}",
                           hint=f"'labctl doctor' says what is missing; the log is '{log}'.")


def _seal(guest: Guest, recipe: Path, work: Path) -> Manifest:
    listing = work / "packages.txt"
    packages = dict(line.split(" ", 1) for line in listing.read_text().splitlines())
    listing.unlink()
    manifest = Manifest(
        guest=guest.name,
        built=datetime.now().astimezone().replace(microsecond=0),
        recipe_sha256=_sha256(recipe),
        files={path.name: ImageFile(sha256=_sha256(path), size=path.stat().st_size)
               for path in sorted(work.iterdir())},
        packages=packages,
    )
    for path in work.iterdir():
        path.chmod(0o444)
    (work / _MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    work.chmod(0o755)
    return manifest


def _drop_unnamed(root: Path, in_use: Collection[str]) -> None:
    named = {link.resolve() for link in root.iterdir() if link.is_symlink()}
    for home in root.glob("sha256-*"):
        if home not in named and home.name.removeprefix("sha256-") not in in_use:
            _remove(home)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(directory: Path) -> None:
    """Remove a directory; where a build was cut off in it, also what belongs to subordinate ids."""
    if not directory.exists():
        return
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists() and os.getuid():
        run(["unshare", "--map-root-user", "--map-auto", "rm", "-rf", directory], check=False)
