"""labctl.observe.lookout: looking again and again, and what is made of it."""

import subprocess
from collections.abc import Iterator

import pytest
from courses import event
from pretend import pretend
from snapshots import answer

from labctl.base.errors import LabError, Unreachable
from labctl.base.wait import Deadline, until
from labctl.labs.lab import open_lab
from labctl.labs.ssh import Ssh
from labctl.observe.events import Event
from labctl.observe.lookout import Lookout, Regular, _news


def test_what_was_seen_last_is_kept_while_there_is_trouble() -> None:
    looks: Iterator[int | LabError] = iter([1, LabError("It cannot be seen.")])

    def look() -> int:
        found = next(looks, 3)
        if isinstance(found, LabError):
            raise found
        return found

    regular = Regular(look, 0, 0.5)
    assert (regular.value, regular.looks) == (0, 0)
    with regular.looking():
        assert until(lambda: regular.trouble, Deadline(10), 0.005) == "It cannot be seen."
        assert (regular.value, regular.looks) == (1, 1)
        assert until(lambda: regular.value == 3, Deadline(10), 0.005)
        assert regular.trouble == ""


def test_a_look_that_waits_is_called_off() -> None:
    with Regular(lambda: until(lambda: False, Deadline(60), 60), False, 60).looking():
        pass


def test_a_bug_in_a_look_is_no_secret() -> None:
    def look() -> int:
        raise ZeroDivisionError

    def seen() -> bool:
        assert regular.value == 0
        return False

    regular = Regular(look, 0, 0.01)
    with regular.looking(), pytest.raises(ZeroDivisionError):
        until(seen, Deadline(10), 0.01)


def test_what_was_found_at_first_is_no_news() -> None:
    there = Event(at=-1, node="lvs-m", kind="node", text="answers", has=True)
    had = event(0, "lvs-m", "has 10.10.10.100", True).model_copy(update={"late": True})
    lost = Event(at=2, node="lvs-m", kind="node", text="answers no more", has=False)
    back = Event(at=9, node="lvs-m", kind="node", text="answers", has=True)
    before = event(-100, "lvs-m", "is MASTER")
    assert list(_news([before, there, had, lost, back])) == [before, lost, back]


def test_nodes_that_run_are_asked_and_a_lab_that_went_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = pretend(monkeypatch)
    lab = open_lab("lab")
    asked = []

    def run(_: Ssh, node: str, script: str, timeout: float) -> subprocess.CompletedProcess[str]:
        assert script
        assert timeout
        asked.append(node)
        if node == "rs1":
            raise Unreachable("The node 'rs1' did not answer.")
        return subprocess.CompletedProcess([], 0, answer(lab.plan), "")

    monkeypatch.setattr(Ssh, "run", run)
    del nodes.states["rs2"]
    lookout = Lookout(lab, lab.plan.frontends()[0], 20)
    said = lookout._ask_nodes()
    assert sorted(asked) == ["client", "lvs", "out", "rs1"]
    assert said["rs1"] is None
    assert said["lvs"]
    assert said["lvs"].configured
    lookout._machines._value = (dict.fromkeys(nodes.states, "gone"), [])
    with pytest.raises(LabError, match="is gone"):
        lookout.snapshot({})
