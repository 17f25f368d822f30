"""Whether a file is a qcow2 image that can be used (docs/interop/qcow2.txt in QEMU's source)."""

import struct
from pathlib import Path

from labctl.base import namespace
from labctl.base.errors import LabError
from labctl.base.process import run

HEAD = 64 * 1024
"""Bytes from a file's beginning that are enough to judge it by."""
_MAGIC = b"QFI\xfb"
_VERSIONS = (2, 3)
_INCOMPATIBLE_FEATURES = 72
_EXTERNAL_DATA = 1 << 2
_CHECK_SECONDS = 600
_SOUND = (0, 3)
"""Statuses of `qemu-img check`: without errors; with nothing worse than clusters that are allocated and not used."""
_OTHERS = {
    "a compressed file (gzip)": (0, b"\x1f\x8b"),
    "a compressed file (xz)": (0, b"\xfd7zXZ\0"),
    "a compressed file (bzip2)": (0, b"BZh"),
    "an ISO image": (0x8001, b"CD001"),
    "a raw disk image": (510, b"\x55\xaa"),
}
"""What people take for an image, by what is at an offset. An ISO that boots from a disk is both of the last ones."""


def judge(head: bytes, what: str) -> None:
    """Raise LabError if a file that begins with `head` (HEAD bytes, or all it has) is no qcow2 image that stands alone.

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
    """Bytes of the disk that a qcow2 image is, as far as its guest sees."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(32)[24:32], "big")


def backing_file(path: Path) -> str:
    """The file that has what a qcow2 image does not have, as the image names it; empty if there is none.

    Raises LabError for what is no qcow2 image, or has a part of its data in yet another file.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head.startswith(_MAGIC) or len(head) < _INCOMPATIBLE_FEATURES + 8:
        raise LabError(f"'{path}' is {_kind(head)}, not a qcow2 image.")
    version, offset, length = struct.unpack_from(">IQI", head, 4)
    features, = struct.unpack_from(">Q", head, _INCOMPATIBLE_FEATURES)
    if version not in _VERSIONS or (version > 2 and features & _EXTERNAL_DATA) or offset + length > len(head):
        raise LabError(f"'{path}' is no disk of a node.")
    return head[offset:offset + length].decode(errors="replace") if offset else ""


def check(path: Path, what: str) -> None:
    """Raise LabError if a file is not a qcow2 image, or is truncated or damaged as far as its own tables tell.

    `what` names the file in the message.
    """
    with path.open("rb") as file:
        judge(file.read(HEAD), what)
    result = run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=False, timeout=_CHECK_SECONDS)
    if result.returncode not in _SOUND:
        raise LabError(f"'{what}' is truncated or damaged: 'qemu-img check' finds errors in it.",
                       hint="Get the file anew, and compare its size with that of the original.")


def overlay(path: Path, below: str | Path, size: int | None = None) -> None:
    """Make an empty image over another one, for a machine to write to. A relative name is one beside it.

    The one below need not be there yet if its virtual size is known.
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
