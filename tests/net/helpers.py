"""What the tests of fetching share."""

import hashlib
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from labctl.base import files, paths
from labctl.base.resources import IMAGES
from labctl.images import store
from labctl.images.download import Patience
from labctl.images.store import ImageFile, Manifest
from labctl.plan import guests

QUICK = Patience(connect=2, stall=0.3, tries=3, pause=0)
SECOND = "/7/images/disk-2009.qcow2"
"""Where the second of the guest's sources is."""
def disk(size: int = 4096, *options: str) -> bytes:
    """A qcow2 image of so many bytes, as small a file as can be."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "disk.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", *options, file, str(size)],
                       check=True)
        return file.read_bytes()


IMAGE = {"disk.qcow2": disk(), "vmlinuz": b"kernel" * 99, "media.img": b"media"}
"""The files of an image that no machine could start from."""


def digest(content: bytes) -> str:
    """SHA-256"""
    return hashlib.sha256(content).hexdigest()


def put(guest: str = "debian-12", content: dict[str, bytes] = IMAGE) -> store.Image:
    """An image in the store, of the guest's present recipe."""
    manifest = Manifest(
        guest=guest, built=datetime(2024, 1, 1, tzinfo=UTC),
        recipe_sha256=files.sha256(IMAGES / (guests.load(guest).recipe)),
        files={name: ImageFile(sha256=digest(data), size=len(data)) for name, data in content.items()},
        packages={"curl": "7.88"})
    with store.receiving([manifest], []) as work:
        for name, data in content.items():
            (work / guest / name).write_bytes(data)
    return store.find(guest)


def stored() -> dict[str, bytes]:
    """All that is in the store of bases."""
    return files_in(paths.bases())


def files_in(root: Path) -> dict[str, bytes]:
    """All that is in a directory, by its path; locks stay there and say nothing."""
    return {str(path.relative_to(root)): bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
            for path in root.rglob("*") if (path.is_symlink() or path.is_file()) and not path.name.endswith(".lock")}


class Said:
    """A Transfer that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.counts: list[tuple[int, int | None]] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def moved(self, here: int, total: int | None) -> None:
        self.counts.append((here, total))
