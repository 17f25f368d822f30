"""The files to which libvirt saves machines; the only module that knows their format (libvirt's qemu_saveimage.h).

A file begins with a header of fixed size. The machine's XML follows, padded with 64 KiB so that it can be replaced, and
then QEMU's stream, which contains the memory. The XML decides what libvirt starts, even which program. So labctl never
uses the XML in a file: it first replaces it by the XML that follows from the plan.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

from labctl.base import files
from labctl.base.errors import LabError

_HEADER = struct.Struct("=16s5I56x")
"""Magic, version, bytes of the XML with its padding, whether the machine ran, format, offset of the cookie."""
_MAGIC = b"LibvirtQemudSave"
"""libvirt writes another magic until the file is complete."""
_VERSION = 2
_AS_IT_IS = 0
"""The format of a stream that is neither compressed nor sparse."""
_NO_COOKIE = 0
"""The cookie describes the machine's processor; without it libvirt finds that out again."""
_LONGEST_XML = 2**20


def is_whole(image: Path) -> bool:
    """Whether a file exists and is complete."""
    try:
        with image.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def checksum(image: Path) -> str:
    """The checksum of the memory in a file, without the XML before it. Raises LabError, OSError."""
    with image.open("rb") as file:
        return files.checksum(image, _HEADER.size + _room(file, image))


def give(image: Path, xml: str) -> None:
    """Replace the XML in a file, so that its memory belongs to the machine `xml`. Raises LabError, OSError.

    After an interruption it can be repeated.
    """
    with image.open("r+b") as file:
        room = _room(file, image)
        text = xml.encode().ljust(room, b"\0")
        if len(text) > room or text[-1]:
            raise LabError(f"'{image}' has no room for the description of a machine.")
        os.pwrite(file.fileno(), _HEADER.pack(_MAGIC, _VERSION, room, True, _AS_IT_IS, _NO_COOKIE) + text, 0)


def _room(file: BinaryIO, image: Path) -> int:
    """The number of bytes between the header and the stream. Raises LabError if libvirt did not write the file."""
    header = file.read(_HEADER.size)
    if len(header) == _HEADER.size:
        magic, version, room, _, format_, _ = _HEADER.unpack(header)
        end = os.fstat(file.fileno()).st_size
        if magic == _MAGIC and version == _VERSION and format_ == _AS_IT_IS and 0 < room <= _LONGEST_XML \
                and _HEADER.size + room < end:
            return int(room)
    raise LabError(f"'{image}' is not the memory of a machine, as libvirt saves it.")
