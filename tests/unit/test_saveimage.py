"""labctl.machines.memory.saveimage: files as libvirt writes them, and what only looks like one."""

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labctl.base.errors import LabError
from labctl.machines.memory import saveimage

STREAM = b"QEVM" + bytes(range(256))
NEW = "<domain><name>näu</name></domain>"


def image(path: Path, magic: bytes = b"LibvirtQemudSave", version: int = 2, room: int = 4096, format_: int = 0,
          stream: bytes = STREAM) -> Path:
    """A file as libvirt saves a machine to, with another machine's XML and a cookie."""
    xml = b"<domain><emulator>/tmp/evil</emulator></domain>\0"
    path.write_bytes(struct.pack("=16s5I56x", magic, version, room, 0, format_, len(xml))
                     + (xml + b"<cookie/>").ljust(room, b"\0")[:room] + stream)
    return path


def test_a_machine_gets_another_description_and_keeps_its_memory(tmp_path: Path) -> None:
    file = image(tmp_path / "web.memory")
    before = saveimage.checksum(file), file.stat().st_size
    saveimage.give(file, NEW)
    content = file.read_bytes()
    magic, version, room, _ran, format_, cookie = struct.unpack_from("=16s5I", content)
    assert (magic, version, room, format_, cookie) == (b"LibvirtQemudSave", 2, 4096, 0, 0)
    assert content[92:92 + room] == NEW.encode().ljust(room, b"\0"), "nothing is left of the other XML"
    assert content[92 + room:] == STREAM
    assert (saveimage.checksum(file), file.stat().st_size) == before


def test_the_checksum_is_of_the_memory(tmp_path: Path) -> None:
    plain, other = image(tmp_path / "a"), image(tmp_path / "b", stream=STREAM[:-1] + b"x")
    assert saveimage.checksum(plain) != saveimage.checksum(other)


@pytest.mark.parametrize("wrong", [
    {"magic": b"LibvirtQemudPart"}, {"magic": b"x" * 16}, {"version": 1}, {"version": 3}, {"format_": 1},
    {"room": 0}, {"room": 2**20 + 1}, {"stream": b""},
], ids=str)
def test_what_libvirt_has_not_written_whole_is_refused_and_left_alone(tmp_path: Path, wrong: dict[str, int]) -> None:
    file = image(tmp_path / "web.memory", **wrong)  # type: ignore[arg-type]
    content = file.read_bytes()
    with pytest.raises(LabError, match="is not the memory of a machine"):
        saveimage.checksum(file)
    with pytest.raises(LabError, match="is not the memory of a machine"):
        saveimage.give(file, NEW)
    assert file.read_bytes() == content


def test_a_description_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = image(tmp_path / "web.memory", room=len(NEW.encode()) + 1)
    saveimage.give(file, NEW)
    content = file.read_bytes()
    with pytest.raises(LabError, match="no room"):
        saveimage.give(file, NEW + " ")
    assert file.read_bytes() == content


def test_a_file_is_whole_once_libvirt_says_so(tmp_path: Path) -> None:
    assert saveimage.is_whole(image(tmp_path / "a"))
    assert not saveimage.is_whole(image(tmp_path / "b", magic=b"LibvirtQemudPart"))
    assert not saveimage.is_whole(tmp_path / "none")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from([b"", b"LibvirtQemudSave", b"LibvirtQemudSave\2\0\0\0"]), rest=st.binary(max_size=400))
def test_whatever_a_file_has_it_is_read_within_its_bounds(tmp_path: Path, start: bytes, rest: bytes) -> None:
    file = tmp_path / "any"
    file.write_bytes(start + rest)
    try:
        saveimage.give(file, NEW)
    except LabError:
        assert file.read_bytes() == start + rest
    else:
        room = int.from_bytes((start + rest)[20:24], "little")
        assert file.read_bytes()[92 + room:] == (start + rest)[92 + room:] != b""
