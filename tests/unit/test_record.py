"""labctl.labs.record: what is remembered of a lab, and what is made of a record that is not what it should be."""

import json
import os
from pathlib import Path

import pytest
from samples import plan_of, recorded

from labctl.base import files, machine, paths
from labctl.base.errors import LabError
from labctl.base.proc import Process, find
from labctl.labs import record
from labctl.labs.record import OtherVersion, Unreadable
from labctl.machines.private_room import PrivateRoom


def test_what_is_written_is_read_back() -> None:
    lab = recorded(plan_of(), room=Process(pid=7, started=8), trouble="It was broken.")
    assert record.load("lab") == lab.record
    assert record.load_plan("lab") == lab.plan
    assert {path.name for path in lab.directory.iterdir()} == {"lab.json", "plan.json"}


def written(**changes: object) -> None:
    """A record in which something is another."""
    file = paths.lab("lab") / "lab.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("version", [0, 2, None, "1.5"])
def test_a_record_of_another_version_is_called_that(version: object) -> None:
    recorded(plan_of())
    written(version=version)
    with pytest.raises(OtherVersion, match="another version"):
        record.load("lab")


@pytest.mark.parametrize("text", ["", "{", '{"version": 1}', "[]", "\0" * 300, '{"version": 1, "name": "l'])
def test_a_torn_record_cannot_be_read(text: str) -> None:
    recorded(plan_of())
    (paths.lab("lab") / "lab.json").write_text(text)
    with pytest.raises(Unreadable, match="cannot be read") as caught:
        record.load("lab")
    assert not isinstance(caught.value, OtherVersion)
    assert "labctl down lab" in caught.value.hint
    assert record.remains("lab") == record.Remains()


def test_of_a_record_of_another_version_is_believed_what_still_makes_sense() -> None:
    lab = recorded(plan_of(), libvirt_uri="qemu:///system")
    written(version=2, sockets=5, image="abc", room="moved", new="key")
    found = record.remains("lab")
    assert (found.id, found.libvirt_uri, found.image, found.sockets) == (lab.record.id, "qemu:///system", "abc", None)


def test_a_record_that_names_another_lab_says_nothing_about_either() -> None:
    recorded(plan_of(), libvirt_uri="qemu:///system")
    written(name="other")
    with pytest.raises(Unreadable, match="belongs to another lab, 'other'"):
        record.load("lab")
    assert record.remains("lab") == record.Remains()


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../lab", "/etc", "", "lab\n", "-x"])
def test_only_a_name_is_the_name_of_a_lab(name: str) -> None:
    recorded(plan_of())
    with pytest.raises(LabError, match="is not the name of a lab"):
        record.load(name)


def test_a_record_is_never_half_written(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = recorded(plan_of())
    before = (lab.directory / "lab.json").read_text()

    def fail(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        lab.save(ready=False)
    assert (lab.directory / "lab.json").read_text() == before


def test_a_lab_of_another_host_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the home is on a network file system."""
    lab = recorded(plan_of())
    assert lab.record.elsewhere == ""
    monkeypatch.setattr(machine, "hostname", lambda: "mars")
    assert lab.record.elsewhere == f"on {lab.record.hostname}"
    with pytest.raises(LabError, match=f"is on the host '{lab.record.hostname}', and this is 'mars'"):
        lab.record.must_be_here()
    lab.record.must_be_here(any_host=True)


def test_a_host_that_is_called_otherwise_since_is_still_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its room runs, and the machine was not restarted."""
    lab = recorded(plan_of(), room=find(os.getpid()))
    monkeypatch.setattr(machine, "hostname", lambda: "mars")
    assert lab.record.elsewhere == ""
    monkeypatch.setattr(machine, "boot_id", lambda: "another")
    assert lab.record.elsewhere == f"on {lab.record.hostname}"


def test_a_lab_of_another_user_is_left_alone() -> None:
    lab = recorded(plan_of(), user=record.User(uid=os.getuid() + 1, name="zoe"))
    assert lab.record.elsewhere == "of zoe"
    for any_host in (False, True):
        with pytest.raises(LabError, match="is the user zoe's"):
            lab.record.must_be_here(any_host=any_host)


def test_a_process_of_the_same_number_is_not_the_room() -> None:
    """Nor is anything of the time before the machine was restarted."""
    assert find(os.getpid()) is not None
    lab = recorded(plan_of(), room=Process(pid=os.getpid(), started=1))
    assert not lab.host.is_open()
    assert lab.states() == dict.fromkeys(lab.states(), "gone")
    mine = find(os.getpid())
    assert recorded(plan_of(lab="a"), room=mine).host.is_open()
    assert not recorded(plan_of(lab="b"), room=mine, boot_id="the one before").host.is_open()


def test_a_room_whose_number_is_not_known_is_asked_for_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, mine = recorded(plan_of()), find(os.getpid())
    words = ["unshare", "sh", "/x/room-init.sh", f"labctl-room:{lab.record.id}", str(lab.directory / "room")]
    monkeypatch.setattr("labctl.base.proc.ours", lambda matches: [mine] if matches(words) else [])
    assert isinstance(lab.host, PrivateRoom)
    assert lab.host.process == mine
    assert not recorded(plan_of(lab="other")).host.is_open()


def test_the_record_goes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is cut off before, the lab is known and can be taken down."""
    lab = recorded(plan_of())
    for name in ("keys", "disks"):
        (lab.directory / name).mkdir()
        (lab.directory / name / "file").touch()
    gone: list[str] = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **options: (gone.append(path.name), unlink(path, **options)))
    record.forget("lab")
    assert gone[-1] == "lab.json"
    assert not lab.directory.exists()
    record.forget("lab")
