"""labctl.labs.rewind: checkpoints that cannot be read block nothing, names are no paths, and what a place cannot do."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from samples import lab_of, plan_of

from labctl.base import paths
from labctl.base.errors import LabError
from labctl.base.progress import Silent
from labctl.labs import rewind
from labctl.labs.lab import Lab, locked
from labctl.machines import keys
from labctl.machines.host import Ability
from labctl.machines.memory import checkpoint

GOOD = {"lab": "lab", "made": "2026-01-02T03:04:05+00:00", "note": "", "trouble": "", "key": {"image": "a"},
        "nodes": {}, "layer_checksums": {}}


def kept(home: Path, content: str = json.dumps(GOOD)) -> Path:
    """A checkpoint in a directory."""
    home.mkdir(parents=True)
    (home / "checkpoint.json").write_text(content)
    return home


def found() -> list[tuple[str, str, bool]]:
    return [(each.lab, each.name, each.saved is not None) for each in rewind.checkpoints()]


def test_one_that_cannot_be_read_is_listed_and_removed_and_blocks_nothing() -> None:
    kept(paths.checkpoints("lab") / "fine")
    kept(paths.checkpoints("lab") / "torn", "{")
    (paths.checkpoints("other") / "empty").mkdir(parents=True)
    kept(paths.warm() / "lab.0123456789abcdef")
    kept(paths.warm() / "third.0123456789abcdef", "null")
    assert found() == [("lab", "configured", True), ("lab", "fine", True), ("lab", "torn", False),
                       ("other", "empty", False), ("third", "configured", False)]
    assert rewind.images_in_use() == {"a": ["the checkpoint 'fine' of 'lab'"]}
    assert rewind.remove_checkpoint(None, "torn") == "lab"
    assert rewind.remove_checkpoint("other", "empty") == "other"
    assert rewind.remove_checkpoint("third", "configured") == "third"
    with pytest.raises(LabError, match="has no checkpoint 'configured'"):
        rewind.remove_checkpoint("third", "configured")
    assert found() == [("lab", "configured", True), ("lab", "fine", True)]


def test_one_is_not_removed_while_a_lab_goes_back_to_it() -> None:
    kept(paths.checkpoints("lab") / "fine")
    with locked("lab"), pytest.raises(LabError, match="Another labctl is changing the lab 'lab'"):
        rewind.remove_checkpoint("lab", "fine")
    assert found() == [("lab", "fine", True)]


@pytest.mark.parametrize("name", ["..", ".", "", "../other/it", "/etc", "it/", "it\n"])
def test_a_path_is_no_name(name: str) -> None:
    kept(paths.checkpoints("lab") / "it")
    kept(paths.checkpoints("other") / "it")
    with pytest.raises(LabError, match="has no checkpoint"):
        rewind.find("lab", name)
    with pytest.raises(LabError, match="no checkpoint"):
        rewind.remove_checkpoint("lab", name)
    with pytest.raises(LabError, match="no checkpoint"):
        rewind.remove_checkpoint("../checkpoints/lab", "it")
    assert len(found()) == 2


def test_what_was_left_half_done_goes_unless_somebody_is_at_it() -> None:
    root = paths.checkpoints("lab")
    for name in (".removing-1a2b", ".saving-busy", ".saving-lab"):
        kept(root / name)
        kept(paths.warm() / name)
    kept(root / "fine")
    (paths.cache() / "boot/.making-1a2b").mkdir(parents=True)
    with locked("busy"):
        would = rewind.gc(dry=True)
        assert len(would) == 5
        assert rewind.gc() == would
    assert [path.name for path in (paths.cache() / "boot").iterdir() if path.is_dir()] == []
    assert {path.name for path in root.iterdir()} == {"fine", ".saving-busy"}
    assert {path.name for path in paths.warm().iterdir()} == {".saving-busy"}


def test_a_lab_on_an_existing_libvirt_is_neither_saved_nor_restored() -> None:
    """Each verb says so before it asks libvirt, which is not there, for anything."""
    lab = lab_of(plan_of(), libvirt_uri="qemu:///system")
    kept(paths.checkpoints("lab") / "it")
    for verb in (lambda: rewind.save_as(lab, "new", "", Silent()),
                 lambda: rewind.restore(lab, "it", Silent()),
                 lambda: rewind.reset(lab, lab.plan.nodes, Silent()),
                 lambda: rewind.reset(lab, lab.plan.nodes[:1], Silent())):
        with pytest.raises(LabError, match="In an existing libvirt labctl cannot save machines"):
            verb()
    Lab(lab.record.model_copy(update={"libvirt_uri": None})).host.must(Ability.save)
    assert not paths.lab("lab").exists()


def test_configured_is_the_name_of_one_checkpoint() -> None:
    lab = lab_of(plan_of())
    with pytest.raises(LabError, match="that 'labctl up' makes"):
        rewind.save_as(lab, "configured", "", Silent())
    with pytest.raises(LabError, match="is not a user's"):
        rewind.find("lab", "configured")


def test_saved_machines_go_on_wherever_their_image_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint from a bundle is of a user with another home."""
    def key(home: str, *, media: bool = True) -> dict[str, str]:
        image = SimpleNamespace(manifest=SimpleNamespace(digest="sha"), kernel=Path(home, "vmlinuz"), initrd=None,
                                media=Path(home, "media.img") if media else None)
        monkeypatch.setattr(Lab, "image", image)
        monkeypatch.setattr(Lab, "provider", SimpleNamespace(versions=lambda: "9"))
        return rewind.key(lab_of(plan_of()))

    assert key("/home/teacher") == key("/home/student")
    assert key("/home/teacher") != key("/home/teacher", media=False)


# ---- Files that somebody else may have put there ----------------------------------------------------------------


def key_files(directory: Path) -> Path:
    directory.mkdir()
    for name in ("login", *(f"host.{node.name}" for node in plan_of().nodes)):
        (directory / name).write_text(f"private {name}\n")
        (directory / f"{name}.pub").write_text(f"ssh-ed25519 {name}\n")
    return directory


def test_keys_are_brought_and_nothing_else(tmp_path: Path) -> None:
    source = key_files(tmp_path / "source")
    (source / "more").write_text("")
    keys.bring(source, tmp_path / "target", plan_of())
    assert keys.read(tmp_path / "target", plan_of()) == keys.read(source, plan_of())
    assert not (tmp_path / "target/more").exists()


@pytest.mark.parametrize("name", ["login", "login.pub", "host.rs1.pub"])
@pytest.mark.parametrize("how", ["link", "large", "lines", "binary", "missing"])
def test_what_is_no_key_is_not_brought(tmp_path: Path, name: str, how: str) -> None:
    file = key_files(tmp_path / "source") / name
    secret = tmp_path / "secret"
    secret.write_text("of the user's\n")
    file.unlink()
    if how == "link":
        file.symlink_to(secret)
    elif how != "missing":
        file.write_bytes({"large": b"x" * 20_000, "lines": b"one\ntwo\n", "binary": b"\xff\xfe"}[how])
    if how == "lines" and not name.endswith(".pub"):
        return
    with pytest.raises(LabError, match="key"):
        keys.bring(tmp_path / "source", tmp_path / "target", plan_of())
    assert not (tmp_path / "target").exists()


def layer(path: Path, below: str = "", features: int = 0) -> None:
    """A qcow2 image over another file."""
    header = bytearray(512)
    header[:8] = b"QFI\xfb\0\0\0\3"
    header[72:80] = features.to_bytes(8, "big")
    if below:
        header[8:20] = (104).to_bytes(8, "big") + len(below).to_bytes(4, "big")
        header[104:104 + len(below)] = below.encode()
    path.write_bytes(header)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkpoint of one node that is as it should be, over the image `image`."""
    home = tmp_path / "home"
    for name in ("disks", "seeds", "consoles"):
        (home / name).mkdir(parents=True)
    (home / "seeds/rs1.iso").write_bytes(b"seed")
    (home / "consoles/rs1.log").write_bytes(b"log")
    (home / "rs1.memory").write_bytes(b"LibvirtQemudSave\2\0\0\0\x10\0\0\0".ljust(92, b"\0") + bytes(16) + b"stream")
    layer(tmp_path / "image")
    layer(home / "disks/.rs1.11.qcow2", ".aa.qcow2")
    layer(home / "disks/.aa.qcow2", str(tmp_path / "image"))
    return home


def verify(home: Path) -> None:
    """Look at the checkpoint as it says that it is."""
    layers = {file.name: checkpoint.files.checksum(file) for file in (home / "disks").iterdir()}
    saved = checkpoint.Checkpoint.model_validate({
        **GOOD, "layer_checksums": layers,
        "nodes": {"rs1": {"disk": ".rs1.11.qcow2", "ahead": 0,
                          "memory_checksum": checkpoint.saveimage.checksum(home / "rs1.memory")}}})
    checkpoint.verify(saved, home, [plan_of().node("rs1")], home.parent / "image")


def test_a_checkpoint_as_it_should_be_is_taken(home: Path) -> None:
    verify(home)


@pytest.mark.parametrize("below", ["/etc/shadow", "../secret", "secret", "json:{}", "nbd://host/x", ""])
def test_a_disk_over_another_file_is_refused(home: Path, below: str) -> None:
    """QEMU would open that for the guest to read."""
    layer(home / "disks/.aa.qcow2", below)
    with pytest.raises(LabError, match="which is no part of what was saved"):
        verify(home)


def test_so_is_one_with_its_data_elsewhere(home: Path) -> None:
    layer(home / "disks/.aa.qcow2", str(home.parent / "image"), features=1 << 2)
    with pytest.raises(LabError, match="is not a node's disk"):
        verify(home)


@pytest.mark.parametrize("name", ["seeds/rs1.iso", "consoles/rs1.log", "disks/.aa.qcow2"])
@pytest.mark.parametrize("how", ["link", "pipe", "directory"])
def test_only_files_are_read(home: Path, name: str, how: str) -> None:
    """A seed that is a link to a file of the user's would be a disk of the guest's."""
    file = home / name
    saved = checkpoint.Checkpoint.model_validate({
        **GOOD, "layer_checksums": {".aa.qcow2": "1"},
        "nodes": {"rs1": {"disk": ".aa.qcow2", "ahead": 0, "memory_checksum": "0"}}})
    file.unlink()
    if how == "link":
        file.symlink_to(home.parent / "image")
    elif how == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    with pytest.raises(LabError, match="is not what was saved"):
        checkpoint.verify(saved, home, [plan_of().node("rs1")], home.parent / "image")


def test_a_node_that_is_missing_is_missed(home: Path) -> None:
    with pytest.raises(LabError, match="The node 'rs2' is no part of what was saved"):
        checkpoint.verify(checkpoint.Checkpoint.model_validate(GOOD), home, [plan_of().node("rs2")],
                          home.parent / "image")
