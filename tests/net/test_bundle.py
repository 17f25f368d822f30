"""Bundles: what is packed on one machine is loaded on another, and nothing of what is damaged."""

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import refused, typed
from filelock import FileLock
from helpers import IMAGE, digest, disk, files_in, put

from labctl.base import paths
from labctl.base.errors import LabError
from labctl.base.files import checksum
from labctl.images import bundle, qcow2, store
from labctl.images.bundle import Contents
from labctl.labs import rewind
from labctl.labs.lab import locked
from labctl.language import catalog

TOPOLOGY = """\
title: Mine
networks: { lan: { subnet: 10.10.10.0/24, host: 10.10.10.1 } }
nodes: { web: { lan: 10.10.10.11 }, client: { lan: 10.10.10.12 } }
services: { site: { type: httpd, nodes: [web] } }
"""
LARGE = {"disk.qcow2": disk(), "media.img": os.urandom(2**21)}
WHEELS = {"cluster_labctl-1-py3-none-any.whl": b"labctl", "rich-2-py3-none-any.whl": b"rich"}
_ON_A_SMALL_DISK = 'mount -t tmpfs -o size=1m tmpfs "$1" && shift && "$@"'
_MAIN = "import labctl.base.files, labctl.__main__; {patch}labctl.__main__.main()"


def all_files() -> dict[str, bytes]:
    """All that is in the user's data directory."""
    return files_in(paths.images().parent)


def members(file: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    """What is in a tar."""
    with tarfile.open(file) as tar:
        return [(member, opened.read()) for member in tar if (opened := tar.extractfile(member))]


def write(file: Path, content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """A tar."""
    with tarfile.open(file, "w") as tar:
        for member, data in content:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.fixture(autouse=True)
def _wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels that need no pip."""
    def fetch(directory: Path) -> list[Path]:
        for name, data in WHEELS.items():
            (directory / name).write_bytes(data)
        return sorted(directory.iterdir())

    monkeypatch.setattr(bundle, "fetch_wheels", fetch)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Go to another machine: one that has nothing of labctl's yet."""
    def go(name: str = "elsewhere") -> None:
        for variable in ("DATA_HOME", "STATE_HOME"):
            monkeypatch.setenv(f"XDG_{variable}", str(tmp_path / name / variable))

    return go


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A bundle with an image and a topology."""
    put()
    (tmp_path / "mine.yaml").write_text(TOPOLOGY)
    file = tmp_path / "course.tar"
    typed("bundle", "create", str(file), "--topology", "mine.yaml")
    return file


# ---- From one machine to another ------------------------------------------------------------------------------


def test_what_is_packed_is_loaded(packed: Path, elsewhere: Callable[[], None]) -> None:
    here = store.find("debian-12")
    elsewhere()
    assert store.images() == []
    said = typed("bundle", "load", str(packed)).stderr
    assert said == (f"Loaded the images debian-12 ({here.manifest.digest[:12]}) and the topologies mine, "
                    f"of labctl {bundle._version()}.\n")
    there = store.find("debian-12")
    assert there.path != here.path
    assert there.manifest == here.manifest
    assert {name: (there.path / name).read_bytes() for name in IMAGE} == IMAGE
    assert {f"{path.stat().st_mode:o}"[-3:] for path in there.path.iterdir()} == {"444", "644"}
    assert catalog.find("mine").read_text() == TOPOLOGY
    assert "mine" in typed("list", "--topologies").stdout
    before = all_files()
    typed("bundle", "load", str(packed))
    assert all_files() == before


def test_an_image_that_is_loaded_again_is_there_meanwhile(
    packed: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = store.find("debian-12")
    (kept.path / "vmlinuz").chmod(0o644)
    (kept.path / "vmlinuz").write_bytes(b"KERNEL" * 99)
    (paths.images() / ".debian-12.new").symlink_to("nowhere")
    effects = []

    def watch(change: Callable[..., object]) -> Callable[..., object]:
        def watched(path: Path, *others: Any, **options: Any) -> object:
            assert store.find("debian-12").disk.read_bytes() == IMAGE["disk.qcow2"]
            effects.append(path.name)
            return change(path, *others, **options)

        return watched

    for name in ("rename", "unlink", "rmdir"):
        monkeypatch.setattr(Path, name, watch(getattr(Path, name)))
    typed("bundle", "load", str(packed))
    assert {"vmlinuz", "manifest.json"} <= set(effects)
    assert (kept.path / "vmlinuz").read_bytes() == IMAGE["vmlinuz"], "it is mended, too"
    assert not list(paths.images().glob(".*.new"))


def test_a_bundle_is_a_tar_that_others_can_read(packed: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xf", packed, "-C", tmp_path], check=True)
    contents = Contents.model_validate_json((tmp_path / "manifest.json").read_bytes())
    for name, file in contents.members().items():
        data = (tmp_path / name).read_bytes()
        assert (digest(data), len(data)) == (file.sha256, file.size)
    assert set(contents.wheels) == set(WHEELS)
    python = f'\n  "python": "3.{sys.version_info.minor}",\n'
    assert python in (tmp_path / "manifest.json").read_text(), "install.sh looks for it"
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    (tmp_path / "wheels" / next(iter(WHEELS))).write_bytes(b"other")
    assert subprocess.run(["sha256sum", "-c", "--status", "SHA256SUMS"], cwd=tmp_path, check=False).returncode


def test_only_some_images(tmp_path: Path) -> None:
    put()
    put("rocky-9", {"disk.qcow2": disk(8192)})
    for words, wanted in (((), {"debian-12", "rocky-9"}), (("--image", "rocky-9"), {"rocky-9"})):
        file = tmp_path / f"{len(words)}.tar"
        typed("bundle", "create", str(file), *words)
        with tarfile.open(file) as tar:
            assert {name.split("/")[1] for name in tar.getnames() if name.startswith("images/")} == wanted


def saved(name: str = "homework", *, image: str = "", made: str = "2026-01-02T03:04:05+00:00") -> Path:
    """A checkpoint of the user's of the lab mine: a disk that was written to, over one that nodes share."""
    home = paths.checkpoints("mine") / name
    for kind in ("keys", "seeds", "consoles", "disks"):
        (home / kind).mkdir(parents=True, exist_ok=True)
    for file in ("web.memory", "keys/login", "keys/login.pub", "seeds/web.iso", "consoles/web.log"):
        (home / file).write_text(f"{file} of {name}")
    for layer, below in ((".aa.qcow2", store.find("debian-12").disk), (".web.11.qcow2", Path(".aa.qcow2"))):
        (home / "disks" / layer).unlink(missing_ok=True)
        qcow2.overlay(home / "disks" / layer, below, 4096)
    description = {
        "lab": "mine", "made": made, "note": "", "exercise": True, "trouble": "It does not serve.",
        "key": {"image": image or store.find("debian-12").manifest.digest},
        "nodes": {"web": {"disk": ".web.11.qcow2", "memory_checksum": "0", "ahead": 0}},
        "layer_checksums": {path.name: checksum(path) for path in (home / "disks").iterdir()}}
    (home / "checkpoint.json").write_text(json.dumps(description))
    return home


@pytest.fixture
def with_exercise(tmp_path: Path) -> Path:
    """A bundle with a checkpoint."""
    put()
    saved()
    file = tmp_path / "exercise.tar"
    typed("bundle", "create", str(file), "--checkpoint", "mine/homework")
    return file


def test_a_checkpoint_is_packed_and_goes_on_over_the_image_that_is_there(
    with_exercise: Path, elsewhere: Callable[[], None],
) -> None:
    here = paths.checkpoints("mine") / "homework"
    elsewhere()
    assert "and the checkpoints mine/homework, of labctl" in typed("bundle", "load", str(with_exercise)).stderr
    there = paths.checkpoints("mine") / "homework"
    assert there != here
    _, found = rewind.find("mine", "homework")
    assert (found.exercise, found.trouble) == (True, "It does not serve.")
    assert (there / "web.memory").read_bytes() == (here / "web.memory").read_bytes()
    assert qcow2.backing_file(there / "disks/.aa.qcow2") == str(store.find("debian-12").disk)
    assert qcow2.backing_file(there / "disks/.web.11.qcow2") == ".aa.qcow2"
    assert found.layer_checksums == {path.name: checksum(path) for path in (there / "disks").iterdir()}
    assert f"{(there / 'keys/login').stat().st_mode:o}"[-3:] == "600"
    before = all_files()
    typed("bundle", "load", str(with_exercise))
    assert all_files() == before


def test_a_checkpoint_of_the_same_name_is_replaced_on_demand(
    with_exercise: Path, elsewhere: Callable[[], None],
) -> None:
    elsewhere()
    put()
    own = saved(made="2026-02-02T03:04:05+00:00")
    before = all_files()
    error = refused("bundle", "load", str(with_exercise))
    assert error.message == "The lab 'mine' has another checkpoint 'homework' already."
    assert "'--overwrite' replaces it; nothing was loaded." in error.hint
    with locked("mine"):
        assert "is changing the lab" in refused("bundle", "load", str(with_exercise), "--overwrite").message
    assert all_files() == before
    typed("bundle", "load", str(with_exercise), "--overwrite")
    assert rewind.find("mine", "homework")[1].made.month == 1
    assert [path.name for path in own.parent.iterdir()] == ["homework"]


@pytest.mark.parametrize(("wanted", "message"), [
    ("homework", "'homework' names no checkpoint."),
    ("mine/other", "The lab 'mine' has no checkpoint 'other'."),
    ("../mine/homework", "'..' is not the name of a lab."),
    ("mine/configured", "The checkpoint 'configured' is not a user's."),
    ("mine/old", "The checkpoint 'old' of the lab 'mine' is of an image that is not packed."),
])
def test_what_is_no_checkpoint_to_pack(tmp_path: Path, wanted: str, message: str) -> None:
    put()
    saved()
    saved("old", image="0" * 64)
    assert refused("bundle", "create", str(tmp_path / "x.tar"), "--checkpoint", wanted).message == message
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.parametrize("damage", ["of another lab", "no checkpoint", "no disk"])
def test_what_is_no_checkpoint_is_not_loaded(tmp_path: Path, elsewhere: Callable[[], None], damage: str) -> None:
    put()
    home = saved()
    description = home / "checkpoint.json"
    if damage == "of another lab":
        description.write_text(description.read_text().replace('"mine"', '"other"'))
    elif damage == "no disk":
        (home / "disks/.aa.qcow2").unlink()
    else:
        description.write_text("{}")
    file = tmp_path / "x.tar"
    bundle.create(file, ["debian-12"], [], overwrite=False,
                  checkpoints={"mine/homework": (home, datetime(2026, 1, 1, tzinfo=UTC))})
    elsewhere()
    refused("bundle", "load", str(file))
    assert not list(paths.checkpoints("mine").iterdir())


@pytest.mark.parametrize("name", ["../x", "/etc/x", "disks/../../x", "disks/..", "..", "other/x", "x\n"])
def test_files_of_a_checkpoint_are_where_those_of_checkpoints_are(name: str) -> None:
    file = {"sha256": "0" * 64, "size": 1}
    for good in ("checkpoint.json", "disks/.web.11.qcow2", "keys/host.web.pub"):
        bundle.Checkpoint.model_validate({"made": "2026-01-02T03:04:05+00:00", "files": {good: file}})
    with pytest.raises(ValueError, match="pattern"):
        bundle.Checkpoint.model_validate({"made": "2026-01-02T03:04:05+00:00", "files": {name: file}})


@pytest.mark.parametrize("in_use", [True, False])
def test_an_image_of_the_same_guest_is_replaced_and_kept_where_labs_run_on_it(
    packed: Path, elsewhere: Callable[[], None], in_use: bool,
) -> None:
    elsewhere()
    old = put(content={"disk.qcow2": disk(8192)})
    bundle.load(packed, [old.manifest.digest] if in_use else [], overwrite=False, receive=rewind.receiving)
    assert store.find("debian-12").manifest.digest != old.manifest.digest
    assert old.path.exists() == in_use


def test_a_topology_that_differs_is_not_overwritten_unasked(packed: Path, elsewhere: Callable[[], None]) -> None:
    elsewhere()
    mine = paths.topologies() / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious\n")
    before = all_files()
    error = refused("bundle", "load", str(packed))
    assert error.message == f"There is another topology 'mine' already: '{mine}'."
    assert "--overwrite" in error.hint
    assert all_files() == before
    typed("bundle", "load", str(packed), "--overwrite")
    assert mine.read_text() == TOPOLOGY


# ---- install.sh; that it installs is for tests/vm ---------------------------------------------------------------


def install(*words: str | Path) -> list[str]:
    """What install.sh says when it refuses."""
    result = subprocess.run(["sh", bundle._INSTALLER, *words], capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    return [line for line in result.stderr.splitlines() if line.startswith("install.sh: ")]


def test_nothing_is_installed_from_a_bundle_that_is_damaged(packed: Path, tmp_path: Path) -> None:
    content = members(packed)
    at = next(i for i, (member, _) in enumerate(content) if member.name.endswith(".whl"))
    content[at] = (content[at][0], b"damaged")
    write(packed, content)
    said = [f"install.sh: '{packed}' is damaged, or not a bundle of labctl."]
    assert install(packed, tmp_path / "home") == said
    packed.write_bytes(packed.read_bytes()[:700])
    assert install(packed, tmp_path / "home") == said
    assert not (tmp_path / "home").exists()


def test_a_bundle_for_another_python_says_so(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "sys", SimpleNamespace(version_info=SimpleNamespace(minor=99)))
    typed("bundle", "create", str(packed), "--overwrite")
    assert install(packed, tmp_path / "home") == [
        "install.sh: The bundle is for python3.99, which is not installed."]
    assert not (tmp_path / "home").exists()


def test_without_a_bundle_the_usage_is_said(tmp_path: Path) -> None:
    assert install() == ["install.sh: The bundle is not named."]
    assert install(tmp_path / "none.tar") == [f"install.sh: There is no file '{tmp_path / 'none.tar'}'."]


# ---- What cannot be packed ------------------------------------------------------------------------------------


def test_a_file_that_is_there_is_not_overwritten_unasked(packed: Path) -> None:
    packed.write_text("precious")
    assert refused("bundle", "create", str(packed)).message == f"There is a '{packed}' already."
    assert packed.read_text() == "precious"
    typed("bundle", "create", str(packed), "--overwrite")
    assert tarfile.is_tarfile(packed)


@pytest.mark.parametrize(("spoil", "message"), [
    ("content", "is damaged: it is not what was put there"),
    ("size", "The image of 'debian-12' is damaged"),
    ("recipe", "was built by another version of its recipe"),
    ("gone", "There are no images to pack"),
    ("topology", "has 1 problem"),
    ("twice", "are both called 'mine'"),
])
def test_what_is_wrong_is_not_packed_and_the_old_bundle_stays(packed: Path, spoil: str, message: str) -> None:
    image = store.find("debian-12")
    topologies = ["--topology", "mine.yaml"]
    match spoil:
        case "content" | "size":
            image.disk.chmod(0o644)
            image.disk.write_bytes(IMAGE["disk.qcow2"][:-1] + (b"!" if spoil == "content" else b""))
        case "recipe":
            other = image.manifest.model_copy(update={"recipe_sha256": "0" * 64})
            (image.path / "manifest.json").write_text(other.model_dump_json())
        case "gone":
            store.remove("debian-12", [])
        case "topology":
            Path("mine.yaml").write_text(TOPOLOGY + "nonsense: 1\n")
        case "twice":
            Path("other").mkdir()
            Path("other/mine.yaml").write_text(TOPOLOGY)
            topologies += ["--topology", "other/mine.yaml"]
    before = packed.read_bytes()
    assert message in refused("bundle", "create", str(packed), "--overwrite", *topologies).message
    assert packed.read_bytes() == before
    assert [path.name for path in packed.parent.glob("*course.tar*")] == ["course.tar"], "nothing else is left"


# ---- What is not loaded ---------------------------------------------------------------------------------------


def test_no_byte_can_be_changed_unnoticed(packed: Path, elsewhere: Callable[[str], None]) -> None:
    """Each field of each header, and the beginning, middle and end of each member."""
    good = packed.read_bytes()
    elsewhere("whole")
    typed("bundle", "load", str(packed))
    whole = all_files()
    header = (0, 50, 99, 100, 108, 116, 124, 135, 136, 148, 156, 157, 257, 263, 265, 297, 329, 345, 500)
    with tarfile.open(packed) as tar:
        positions = sorted({position for member in tar for position in (
            *(member.offset + field for field in header), member.offset_data,
            member.offset_data + member.size // 2, member.offset_data + member.size - 1)})
    elsewhere("damaged")
    noticed = 0
    for position in positions:
        for flip in (0x01, 0xFF):
            packed.write_bytes(good[:position] + bytes([good[position] ^ flip]) + good[position + 1:])
            try:
                bundle.load(packed, [], overwrite=False, receive=rewind.receiving)
            except LabError as error:
                noticed += 1
                assert "is damaged" in error.message or "is not a bundle" in error.message
                assert all_files() == {}
            else:  # Padding, or a field such as the time.
                assert all_files() == whole
                elsewhere(f"damaged-{position}-{flip}")
    assert noticed > len(positions)


def test_a_bundle_that_is_cut_off_is_not_loaded(packed: Path, elsewhere: Callable[[], None]) -> None:
    elsewhere()
    good = packed.read_bytes()
    with tarfile.open(packed) as tar:
        end = max(member.offset_data + member.size for member in tar)
    for length in {*range(0, end, 512), *range(100, end, 1000), end - 1}:
        packed.write_bytes(good[:length])
        error = refused("bundle", "load", str(packed))
        assert "is damaged" in error.message or (length < 512 and "is not a bundle" in error.message), length
        assert all_files() == {}


@pytest.mark.parametrize("content", [b"", b"text\n", bytes(10240), b"\x1f\x8b" + bytes(600)])
def test_what_is_no_bundle_is_not_loaded(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "other.tar"
    file.write_bytes(content)
    assert refused("bundle", "load", str(file)).message == f"'{file}' is not a bundle of labctl."


def test_another_tar_is_not_loaded(tmp_path: Path) -> None:
    file = tmp_path / "other.tar"
    write(file, [(tarfile.TarInfo("readme"), b"text")])
    assert refused("bundle", "load", str(file)).message == f"'{file}' is not a bundle of labctl."
    write(file, [(tarfile.TarInfo("manifest.json"), b'{"version": 9}')])
    assert "another version of labctl" in refused("bundle", "load", str(file)).message


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "images/debian-12/../../../evil", "images/debian-12/new"])
@pytest.mark.parametrize("place", ["instead", "beside"])
def test_a_member_that_the_manifest_does_not_know_is_not_loaded(
    packed: Path, elsewhere: Callable[[], None], name: str, place: str,
) -> None:
    content = members(packed)
    if place == "instead":
        content[-1][0].name = name
    else:
        content.append((tarfile.TarInfo(name), b"evil"))
    write(packed, content)
    elsewhere()
    assert "is damaged" in refused("bundle", "load", str(packed)).message
    assert all_files() == {}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("position", [0, 1, -1])
def test_a_member_that_is_no_file_is_not_loaded(
    packed: Path, elsewhere: Callable[[], None], kind: bytes, position: int,
) -> None:
    content = members(packed)
    content[position][0].type = kind
    content[position][0].linkname = "/etc/passwd"
    with tarfile.open(packed, "w") as tar:
        for member, data in content:
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    elsewhere()
    message = refused("bundle", "load", str(packed)).message
    assert "is damaged" in message or "is not a bundle" in message
    assert all_files() == {}


@pytest.mark.parametrize("change", [
    lambda found: found["images"]["debian-12"]["files"].update({"../../evil": found["installer"]}),
    lambda found: found["images"]["debian-12"]["files"].update({"manifest.json/..": found["installer"]}),
    lambda found: found["images"].update({"..": found["images"].pop("debian-12")}),
    lambda found: found["images"].update({"rocky-9": found["images"].pop("debian-12")}),
    lambda found: found["topologies"].update({"../evil": found["installer"]}),
    lambda found: found["wheels"].update({"/evil": found["installer"]}),
    lambda found: found["images"].clear(),
    lambda found: found["images"]["debian-12"]["files"].update({"manifest.json": found["installer"]}),
    lambda found: found["images"]["debian-12"]["files"].pop("disk.qcow2"),
    lambda found: found["images"]["debian-12"]["files"]["disk.qcow2"].update(size=-1),
    lambda found: found["images"]["debian-12"]["files"]["disk.qcow2"].update(sha256="../../evil"),
    lambda found: found["images"]["debian-12"]["files"].update(waiting_args={**found["installer"], "size": 1025}),
    lambda found: found["topologies"]["mine"].update(size=2**20 + 1),
])
def test_a_manifest_with_names_that_leave_the_directory_is_not_read(
    packed: Path, elsewhere: Callable[[], None], change: Callable[[dict[str, dict[str, object]]], None],
) -> None:
    content = members(packed)
    found = json.loads(content[0][1])
    change(found)
    content[0] = (content[0][0], json.dumps(found).encode())
    write(packed, content)
    elsewhere()
    assert "its manifest cannot be read" in refused("bundle", "load", str(packed)).message
    assert all_files() == {}


@pytest.mark.parametrize("kind", ["backing file", "data file"])
def test_an_image_that_would_open_a_file_of_the_machine_is_not_loaded(
    tmp_path: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch, kind: str,
) -> None:
    """Its digests are right: whoever made the bundle worked them out."""
    (tmp_path / "mine.yaml").write_text(TOPOLOGY)
    evil = bytearray(disk(4096, *(["-b", "/etc/shadow", "-F", "raw", "-u"] if kind == "backing file" else [])))
    if kind == "data file":
        evil[79] |= 1 << 2  # The incompatible feature that says so.
    file = tmp_path / "course.tar"
    with monkeypatch.context() as patched:
        patched.setattr(qcow2, "check", lambda *_: None)
        put(content={**IMAGE, "disk.qcow2": bytes(evil)})
        typed("bundle", "create", str(file), "--topology", "mine.yaml")
    elsewhere()
    assert refused("bundle", "load", str(file)).message == (
        "'disk.qcow2 of debian-12' is only a part of an image: the rest is in another file.")
    assert all_files() == {}


def test_a_member_with_holes_is_not_loaded(packed: Path, elsewhere: Callable[[], None]) -> None:
    """A few bytes of a tar could fill the disk with zeros."""
    content = members(packed)
    member, data = content[-1]
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": member.name,
           "GNU.sparse.realsize": str(len(data))}
    with tarfile.open(packed, "w", format=tarfile.PAX_FORMAT) as tar:
        for each, text in content[:-1]:
            tar.addfile(each, io.BytesIO(text))
        member.pax_headers = pax
        blocks = f"1\n0\n{len(data)}\n".encode().ljust(512, b"\0")
        member.size = len(blocks) + len(data)
        tar.addfile(member, io.BytesIO(blocks + data))
    with tarfile.open(packed) as tar:
        assert [each.issparse() for each in tar][-1], "tar takes it for one"
        assert tar.extractfile(tar.getmembers()[-1]).read() == data  # type: ignore[union-attr]
    elsewhere()
    assert "is damaged" in refused("bundle", "load", str(packed)).message
    assert all_files() == {}


def test_while_another_changes_the_store_nothing_is_loaded(packed: Path, elsewhere: Callable[[], None]) -> None:
    elsewhere()
    paths.images().mkdir(parents=True)
    with FileLock(paths.images() / ".lock"):
        assert refused("bundle", "load", str(packed)).message == "Another labctl is changing the image store."
    assert all_files() == {}


def test_a_file_system_that_takes_no_file_so_large(tmp_path: Path) -> None:
    put(content=LARGE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        error = refused("bundle", "create", str(tmp_path / "big.tar"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.message == f"The file system of '{tmp_path}' does not allow files as large as this one."
    assert not list(tmp_path.glob("*big.tar*"))


@pytest.mark.parametrize("patch", ["", "labctl.base.files.check_space = lambda *_: None; "],
                         ids=["before", "in the middle"])
@pytest.mark.parametrize("command", ["create", "load"])
def test_a_disk_that_is_full(tmp_path: Path, command: str, patch: str) -> None:
    """In a mount namespace with a disk of its own, of 1 MiB."""
    put(content=LARGE)
    disk = tmp_path / "disk"
    disk.mkdir()
    file = tmp_path / "big.tar"
    bundle.create(file, ["debian-12"], [], overwrite=False, checkpoints={})
    environment = dict(os.environ)
    if command == "create":
        patch += "import labctl.images.bundle; labctl.images.bundle.fetch_wheels = lambda _: []; "
        file = disk / "big.tar"
    else:
        environment["XDG_DATA_HOME"] = str(disk)
    user = [] if os.getuid() == 0 else ["--map-root-user"]
    result = subprocess.run(
        ["unshare", *user, "-m", "sh", "-c", f'{_ON_A_SMALL_DISK}; status=$?; find {disk} -type f ! -name .lock; '
         'exit $status', "sh", disk, sys.executable, "-c", _MAIN.format(patch=patch), "bundle", command, file],
        env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("labctl: There is not enough room in '")
    assert "Traceback" not in result.stderr
    assert result.stdout == "", "files that are left"
