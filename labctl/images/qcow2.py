"""Checking and making qcow2 images (docs/interop/qcow2.txt in QEMU's source)."""

import struct
from pathlib import Path

from labctl.base import namespace
from labctl.base.errors import LabError
from labctl.base.process import run

HEAD = 64 * 1024
"""How many bytes from a file's beginning `judge` needs."""
_MAGIC = b"QFI\xfb"
_VERSIONS = (2, 3)
_INCOMPATIBLE_FEATURES = 72
_EXTERNAL_DATA = 1 << 2
_CHECK_SECONDS = 600
_SOUND = (0, 3)
"""Statuses of `qemu-img check` for usable images: no errors; only leaked clusters."""
_OTHERS = {
    "a compressed file (gzip)": (0, b"\x1f\x8b"),
    "a compressed file (xz)": (0, b"\xfd7zXZ\0"),
    "a compressed file (bzip2)": (0, b"BZh"),
    "an ISO image": (0x8001, b"CD001"),
    "a raw disk image": (510, b"\x55\xaa"),
}
"""Files that are often mistaken for images: bytes at an offset. A hybrid ISO matches both of the last two."""


def judge(head: bytes, what: str) -> None:
    """Raise LabError if a file's first HEAD bytes `head` are not those of a qcow2 image without other files.

    `what` names the file in the message.
    """
    if not head.startswith(_MAGIC):
        raise LabError(f"'{what}' is {_kind(head)}, not a qcow2 image.")
    if len(head) < _INCOMPATIBLE_FEATURES + 8:
        raise LabError(f"'{what}' is truncated: it is too short for a qcow2 image.")
    version, backing_file = struct.unpack_from(">IQ", head, 4)
    if version not in _VERSIONS:
        raise LabError(f"'{what}' is a qcow2 image of version {version}; labctl knows 2 and 3.")
    features, = struct.unpack_from(">Q", head, _INCOMPATIBLE_FEATURES)
    if backing_file or (version > 2 and features & _EXTERNAL_DATA):
        raise LabError(f"'{what}' is only a part of an image: the rest is in another file.",
                       hint="'qemu-img convert -O qcow2' makes one file of both.")


def virtual_size(path: Path) -> int:
    """The size in bytes of the disk that a guest sees."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(32)[24:32], "big")


def backing_file(path: Path) -> str:
    """A qcow2 image's backing file, as named in the image; empty if it has none.

    Raises LabError if the file is not a qcow2 image, or keeps its data in a separate file.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head.startswith(_MAGIC) or len(head) < _INCOMPATIBLE_FEATURES + 8:
        raise LabError(f"'{path}' is {_kind(head)}, not a qcow2 image.")
    version, offset, length = struct.unpack_from(">IQI", head, 4)
    features, = struct.unpack_from(">Q", head, _INCOMPATIBLE_FEATURES)
    if version not in _VERSIONS or (version > 2 and features & _EXTERNAL_DATA) or offset + length > len(head):
        raise LabError(f"'{path}' is not a node's disk.")
    return head[offset:offset + length].decode(errors="replace") if offset else ""


def check(path: Path, what: str) -> None:
    """Raise LabError if a file is not a qcow2 image, or if its tables show that it is truncated or damaged.

    `what` names the file in the message.
    """
    with path.open("rb") as file:
        judge(file.read(HEAD), what)
    result = run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=False, timeout=_CHECK_SECONDS)
    if result.returncode not in _SOUND:
        raise LabError(f"'{what}' is truncated or damaged: 'qemu-img check' finds errors in it.",
                       hint="Get the file anew, and compare its size with that of the original.")


def put_over(path: Path, below: Path) -> None:
    """Have an image name another file as the one below it; nothing else of it changes."""
    if backing_file(path) != str(below):
        run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below, path])


def overlay(path: Path, below: str | Path, size: int | None = None) -> None:
    """Make an empty image on top of another one, for a machine to write to. A relative `below` is relative to `path`.

    If `size`, the virtual size of the image below, is given, that image need not exist yet.
    """
    unseen, bytes_ = (["-u"], [str(size)]) if size else ([], [])
    run(["qemu-img", "create", "-q", *unseen, "-f", "qcow2", "-F", "qcow2", "-b", below, path, *bytes_])
    namespace.give_to_machines(path)


def _kind(head: bytes) -> str:
    if not head:
        return "empty"
    if any(tag in head[:1024].lower() for tag in (b"<!doctype html", b"<html")):
        return "an HTML page"
    return next((kind for kind, (offset, magic) in _OTHERS.items() if head[offset:].startswith(magic)),
                "a file of another kind")
