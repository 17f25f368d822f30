"""labctl.images.bases and labctl.images.qcow2: files that are here already."""

import errno
import gzip
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from helpers import Said, digest, stored
from mirror import Mirror

from labctl.base import files, paths
from labctl.base.errors import LabError
from labctl.images import bases
from labctl.plan.guests import Guest


@pytest.fixture
def file(tmp_path: Path, image: bytes) -> Path:
    """The image as a file of the user's."""
    path = tmp_path / "Downloads" / "disk.qcow2"
    path.parent.mkdir()
    path.write_bytes(image)
    return path


def refused(guest: Guest, file: Path, unverified: bool = False) -> LabError:
    """An import that does not work, and leaves the store and the file as they were."""
    before = stored()
    with pytest.raises(LabError) as caught:
        bases.import_(guest, file, unverified)
    assert stored() == before
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.usefixtures("store")
def test_a_known_file_is_copied_and_verified(guest: Guest, mirror: Mirror, file: Path, image: bytes) -> None:
    base = bases.import_(guest, file, unverified=False)
    assert base == bases.find("centos-7")
    assert base.disk.read_bytes() == file.read_bytes() == image
    assert not base.disk.is_symlink()
    assert base.manifest.verified
    assert base.manifest.origin == str(file)
    assert sorted(stored()) == ["centos-7", f"{base.path.name}/disk.qcow2", f"{base.path.name}/manifest.json"]
    said = Said()
    bases.pull(guest, None, said)
    assert said.lines == ["The base of 'centos-7' is there already."]
    assert mirror.asked == []


@pytest.mark.usefixtures("store")
def test_an_unknown_file_is_taken_only_on_demand(guest: Guest, file: Path, image: bytes) -> None:
    file.write_bytes(image + bytes(512))
    found = digest(file.read_bytes())
    error = refused(guest, file)
    assert error.message == f"'{file}' is not an image of 'centos-7' that labctl knows: its sha256 is {found}."
    assert f"disk-2211.qcow2 ({digest(image)}), disk-2009.qcow2" in error.hint
    assert "'--unverified'" in error.hint
    base = bases.import_(guest, file, unverified=True)
    assert not base.manifest.verified
    assert base.manifest.sha256 == found
    assert '"verified": false' in (base.path / "manifest.json").read_text()


def _iso(image: bytes) -> bytes:
    return bytes(0x8001) + b"CD001" + image


def _raw(_: bytes) -> bytes:
    return bytes(510) + b"\x55\xaa" + bytes(512)


def _with_version(image: bytes) -> bytes:
    return image[:4] + struct.pack(">I", 4) + image[8:]


def _with_backing_file(image: bytes) -> bytes:
    return image[:8] + struct.pack(">Q", 512) + image[16:]


def _with_data_file(image: bytes) -> bytes:
    return image[:72] + struct.pack(">Q", 4) + image[80:]


@pytest.mark.parametrize("unverified", [False, True])
@pytest.mark.parametrize(("make", "said"), [
    (lambda _: b"<html></html>", "is an HTML page, not a qcow2 image."),
    (lambda _: b"", "is empty, not a qcow2 image."),
    (lambda _: b"Hello", "is a file of another kind, not a qcow2 image."),
    (_iso, "is an ISO image, not a qcow2 image."),
    (_raw, "is a raw disk image, not a qcow2 image."),
    (gzip.compress, "is a compressed file (gzip), not a qcow2 image."),
    (_with_version, "is a qcow2 image of version 4; labctl knows 2 and 3."),
    (_with_backing_file, "is only a part of an image: the rest is in another file."),
    (_with_data_file, "is only a part of an image: the rest is in another file."),
    (lambda image: image[:50], "is truncated: it is too short for a qcow2 image."),
    (lambda image: image[:1000], "is truncated or damaged: 'qemu-img check' finds errors in it."),
    (lambda image: image[:len(image) // 2], "is truncated or damaged: 'qemu-img check' finds errors in it."),
    (lambda image: image[:2**17] + bytes(2**17) + image[2**18:], "is truncated or damaged: 'qemu-img check' finds "
                                                                  "errors in it."),
])
def test_what_is_no_sound_qcow2_is_never_taken(
    guest: Guest, file: Path, image: bytes, make: Callable[[bytes], bytes], said: str, unverified: bool,
) -> None:
    file.write_bytes(make(image))
    assert refused(guest, file, unverified).message == f"'{file}' {said}"


def test_an_older_qcow2_is_one_too(guest: Guest, file: Path, tmp_path: Path) -> None:
    older = tmp_path / "older.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-o", "compat=0.10", file, older], check=True)
    assert bases.import_(guest, older, unverified=True).disk.read_bytes() == older.read_bytes()


def test_a_file_that_is_none(guest: Guest, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.qcow2", tmp_path):
        assert refused(guest, path).message == f"There is no file '{path}'."


@pytest.mark.usefixtures("store")
def test_a_disk_that_becomes_full(guest: Guest, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(_: Path, target: Path) -> NoReturn:
        target.write_bytes(b"the beginning")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "copy", copy)
    error = refused(guest, file)
    assert error.message == f"There is not enough room in '{paths.bases()}': the file needs 2 MiB."


def test_what_is_left_of_a_pull_is_gone_when_a_base_is_there(guest: Guest, file: Path) -> None:
    bases.import_(guest, file, unverified=False)
    for name in (".centos-7.part", ".centos-7.part.json"):
        (paths.bases() / name).touch()
    bases.import_(guest, file, unverified=False)
    assert not list(paths.bases().glob(".centos-7.part*"))


def test_a_store_behind_a_link(guest: Guest, file: Path, tmp_path: Path) -> None:
    (tmp_path / "large-disk").mkdir()
    paths.bases().parent.mkdir(parents=True)
    paths.bases().symlink_to(tmp_path / "large-disk")
    bases.import_(guest, file, unverified=False)
    bases.import_(guest, file, unverified=False)
    assert bases.find("centos-7").manifest.verified
