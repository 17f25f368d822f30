"""labctl.labs.leftovers and lifecycle.down: what is removed, and above all what is not."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from commands import refused, typed
from samples import plan_of, recorded

from labctl.base import machine, paths, proc
from labctl.base.errors import LabError
from labctl.base.proc import Process
from labctl.labs import lab, leftovers, lifecycle, record
from labctl.machines import sockets


class Processes:
    """Processes that only seem to run: what each was started with, by its number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running: dict[int, list[str]] = {}
        self.immortal: set[int] = set()
        monkeypatch.setattr(proc, "ours", self._ours)
        monkeypatch.setattr(proc, "end", self._end)
        monkeypatch.setattr(proc, "arguments", lambda pid: self.running.get(pid, []))

    def room(self, instance: UUID, directory: Path) -> None:
        """Start what a room consists of."""
        for words in (["unshare", "--user", "sh"], ["sh"]):
            self.running[len(self.running) + 1] = [*words, "/lib/room-init.sh", f"labctl-room:{instance}",
                                                   str(directory / "room")]

    def _ours(self, matches: Callable[[list[str]], bool]) -> list[Process]:
        return [Process(pid=pid, started=pid) for pid, words in self.running.items() if matches(words)]

    def _end(self, found: Callable[[], list[Process]], _: float) -> list[Process]:
        for process in found():
            if process.pid not in self.immortal:
                del self.running[process.pid]
        return found()


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    """There are none at first."""
    return Processes(monkeypatch)


def made(name: str, processes: Processes) -> lab.Lab:
    """A lab that is up, with all that it has on this machine."""
    found = recorded(plan_of(lab=name))
    processes.room(found.record.id, found.directory)
    sockets.make(found.record.sockets, found.directory)
    (found.directory / "disks").mkdir()
    return found


def test_what_has_a_record_stays(processes: Processes) -> None:
    found = made("lab", processes)
    assert leftovers.collect(dry=False) == []
    assert found.host.is_open()
    assert found.record.sockets.exists()


@pytest.mark.parametrize("lost", ["record", "directory"])
def test_a_lab_whose_record_is_lost_is_found_and_removed(processes: Processes, lost: str) -> None:
    made("other", processes)
    found = made("lab", processes)
    if lost == "directory":
        for path in (found.directory / "disks", found.directory / "plan.json"):
            path.rmdir() if path.is_dir() else path.unlink()
    (found.directory / "lab.json").unlink()
    if lost == "directory":
        found.directory.rmdir()
    would = leftovers.collect(dry=True)
    assert str(found.record.id) in would[0]
    assert f"'{found.record.sockets}'" in would[1]
    assert len(processes.running) == 4
    assert leftovers.collect(dry=False) == would
    assert len(processes.running) == 2
    assert not found.record.sockets.exists()
    assert not found.directory.exists()
    assert leftovers.collect(dry=False) == []
    assert lab.names() == ["other"]


def test_what_a_labctl_is_just_making_stays(processes: Processes) -> None:
    """It has the lock, but may have no record yet."""
    directory = paths.lab("lab")
    with lab.locked("lab"):
        directory.mkdir()
        processes.room(uuid4(), directory)
        assert leftovers.collect(dry=False) == []
    assert len(processes.running) == 2
    assert directory.exists()


def test_labs_of_another_state_directory_are_not_looked_at(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    found = made("lab", processes)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert leftovers.collect(dry=False) == []
    assert found.record.sockets.exists()
    assert len(processes.running) == 2
    refused("down", "--force", str(found.record.id))
    assert len(processes.running) == 2


def test_an_earlier_room_and_its_sockets_go_and_the_lab_stays(processes: Processes) -> None:
    found = made("lab", processes)
    earlier = uuid4()
    processes.room(earlier, found.directory)
    sockets.make(sockets.place(earlier), found.directory)
    assert len(leftovers.collect(dry=False)) == 2
    assert found.host.is_open()
    assert found.record.sockets.exists()
    assert not sockets.place(earlier).exists()


def test_locks_of_a_labctl_that_was_killed_go_unsaid(processes: Processes) -> None:
    made("lab", processes)
    (paths.labs() / ".gone.lock").touch()
    assert leftovers.collect(dry=False) == []
    assert not list(paths.labs().glob(".*"))


@pytest.mark.parametrize("text", ["", "{}", '{"version": 9, "name": "bad"}', '{"plan": {}}'])
def test_a_lab_that_cannot_be_read_blocks_nothing(processes: Processes, text: str) -> None:
    made("lab", processes)
    bad = made("bad", processes)
    (bad.directory / "lab.json").write_text(text)
    rows = {line.split()[0]: line for line in typed("list").stdout.splitlines()}
    assert "unreadable" in rows["bad"] or "other version" in rows["bad"]
    assert " up " in rows["lab"]
    assert [each.name for each in lab.labs()] == ["lab"]
    assert "There is nothing to remove" in typed("gc").stderr
    for words in (["status", "bad"], ["ssh", "bad/rs1"], ["up", "lvs-dr", "--name", "bad", "--accel", "tcg"]):
        assert "labctl down bad" in refused(*words).hint
    typed("down", "--all")
    assert lab.names() == []
    assert processes.running == {}
    assert not bad.directory.exists()
    assert not bad.record.sockets.exists()


def test_a_record_that_names_another_lab_removes_nothing_of_it(processes: Processes) -> None:
    found = made("lab", processes)
    copy = paths.lab("copy")
    copy.mkdir()
    (copy / "lab.json").write_text((found.directory / "lab.json").read_text())
    lifecycle.down("copy")
    assert not copy.exists()
    assert found.host.is_open()
    assert found.record.sockets.exists()


@pytest.mark.parametrize("name", ["..", "../labs/lab", "/tmp", "lab/.", "."])
def test_paths_are_no_names(processes: Processes, name: str) -> None:
    made("lab", processes)
    for words in (["down", name], ["down", "--force", name], ["ssh-config", name]):
        assert "is not the name of a lab" in refused(*words).message
    assert lab.names() == ["lab"]


def test_a_down_that_was_cut_off_is_done_again(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made("lab", processes)
    forget = record.forget

    def killed(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "forget", killed)
    with pytest.raises(KeyboardInterrupt):
        lifecycle.down("lab")
    assert lab.names() == ["lab"]
    monkeypatch.setattr(record, "forget", forget)
    lifecycle.down("lab")
    assert not found.directory.exists()


def test_what_does_not_end_keeps_its_record_unless_by_force(processes: Processes) -> None:
    made("lab", processes)
    processes.immortal = {1}
    assert "labctl down --force lab" in refused("down", "lab").hint
    assert lab.names() == ["lab"]
    assert "do not end" in refused("down", "--force", "lab").message
    assert lab.names() == ["lab"], "its disks are in use"


def test_a_libvirt_that_is_gone_keeps_the_record_unless_by_force(
    processes: Processes, monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded(plan_of(), libvirt_uri="test:///nowhere")

    def unreachable(*_: object) -> None:
        raise LabError("libvirt cannot be reached.")

    monkeypatch.setattr("labctl.machines.provider.Provider.__init__", unreachable)
    assert "cannot be reached" in refused("down", "lab").message
    assert lab.names() == ["lab"]
    assert "cannot be reached" in refused("down", "--force", "lab").message
    assert lab.names() == []
    assert processes.running == {}


def test_force_takes_down_what_has_no_record_by_name_or_id(processes: Processes) -> None:
    for by_id in (False, True):
        found = made("lab", processes)
        (found.directory / "lab.json").unlink()
        assert "something is left" in refused("down", "lab").message
        typed("down", "--force", str(found.record.id) if by_id else "lab")
        assert processes.running == {}
        assert not found.directory.exists()


def test_a_lab_of_another_host_goes_by_force_only(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made("lab", processes)
    processes.running.clear()
    monkeypatch.setattr(machine, "hostname", lambda: "mars")
    up = ["up", "lvs-dr", "--name", "lab", "--accel", "tcg"]
    for words in (["down"], ["down", "lab"], ["status"], ["ssh", "lab/rs1"], up):
        assert "is on the host" in refused(*words).message
    assert f" on {found.record.hostname} " in typed("list").stdout
    assert found.directory.exists()
    typed("down", "--force", "lab")
    assert not found.directory.exists()


def test_the_volumes_of_no_lab_go_and_everybody_elses_stay(
    processes: Processes, monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = recorded(plan_of(), libvirt_uri="test:///x").record.id
    theirs, nobodys = uuid4(), uuid4()
    removed: list[str] = []
    volumes = {f"{instance}.web.qcow2": instance for instance in (mine, theirs, nobodys)}
    libvirt = SimpleNamespace(instances=lambda: {theirs: "shop"}, volumes=lambda: volumes,
                              remove_volumes=removed.extend)
    monkeypatch.setattr(leftovers, "provider_at", lambda *_: libvirt)
    said = typed("gc", "--dry-run").stderr
    assert f"Would remove: the volume '{nobodys}.web.qcow2' at 'test:///x'." in said
    assert re.search(rf"'labctl down --force {theirs} --host test:///x'", said)
    assert removed == []
    assert "emove" not in next(line for line in typed("gc").stderr.splitlines() if "'shop'" in line).partition("If")[0]
    assert removed == [f"{nobodys}.web.qcow2"]
    assert processes.running == {}


def test_a_lab_that_was_cut_off_before_it_had_a_plan_is_listed_and_goes(processes: Processes) -> None:
    found = made("lab", processes)
    found.save(ready=False)
    (found.directory / "plan.json").unlink()
    assert "not ready" in typed("list").stdout
    for words in (["status"], ["ssh", "rs1"], ["test"]):
        assert "The plan of the lab 'lab' cannot be read" in refused(*words).message
    typed("down", "lab")
    assert processes.running == {}
    assert lab.names() == []
