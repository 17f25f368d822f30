"""Files: digests and copies of large ones, atomic writing of small ones, and errors about full disks."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from labctl.base.errors import LabError
from labctl.base.machine import free_disk

_FICLONE = 0x40049409
"""ioctl_ficlone(2): the copy shares the original's blocks, on file systems that support it."""
_BLOCK = 2**20
_WHAT_TAKES_SPACE = "'labctl image list' and 'labctl list' show what takes space."


class DiskFull(LabError):
    """A disk filled up while a file was written to it."""


def sha256(path: Path) -> str:
    """A file's digest, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(path: Path, start: int = 0) -> str:
    """A checksum (XXH3, 128 bits) of a file's content from byte `start` on, in hexadecimal.

    It detects damage, not forgery. It is used where users wait, since it is ten times as fast as a digest.
    """
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that readers find either the old one or the new one, whole, also after a crash."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def tail(path: Path, count: int) -> bytes:
    """The last `count` bytes of a file, or all of a shorter one."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - count))
        return file.read(count)


def adopt(source: Path, target: Path) -> Path:
    """Give a file that nobody changes a second name: a hard link, or on another file system a copy.

    Does nothing if `target` exists. Returns `target`.
    """
    if not target.exists():
        try:
            target.hardlink_to(source)
        except OSError:  # Another file system.
            shutil.copyfile(source, target)
    return target


def copy(source: Path, target: Path) -> None:
    """Copy a file's content; takes no time and no space on a file system that can share blocks."""
    with source.open("rb") as original, target.open("wb") as duplicate:
        try:
            fcntl.ioctl(duplicate, _FICLONE, original.fileno())
        except OSError:
            shutil.copyfileobj(original, duplicate, _BLOCK)


def check_space(directory: Path, needed: int) -> None:
    """Raise LabError if fewer than `needed` bytes are free on the file system of `directory`."""
    free, _ = free_disk(directory)
    if free < needed / 2**20:
        needs = f"needs {_mib(needed)} MiB, and {free} MiB are free"
        raise LabError(_no_room(directory, needs), hint=_WHAT_TAKES_SPACE)


@contextmanager
def filling(directory: Path, needed: int | None) -> Iterator[None]:
    """Explain a failure to write `needed` bytes (None: unknown) to `directory` inside the `with` block.

    Raises DiskFull if the disk fills up, and LabError if the file system allows no file of this size, as FAT with
    4 GiB.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise LabError(f"The file system of '{directory}' does not allow files as large as this one.",
                           hint="Choose another disk; a bundle is smaller with '--image GUEST'.") from None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needs = f"needs {_mib(needed)} MiB" if needed else "needs more"
        raise DiskFull(_no_room(directory, needs), hint=_WHAT_TAKES_SPACE) from None


def _no_room(directory: Path, needs: str) -> str:
    return f"There is not enough room in '{directory}': the file {needs}."


def _mib(count: int) -> int:
    return -(-count // 2**20)
