"""labctl top: keys, what they begin, and when there is no view."""

import os
import pty
import termios
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import cast

import pytest
from commands import refused
from played import Played, faults_of
from pretend import pretend

from labctl.base.errors import LabError
from labctl.base.wait import Deadline, until
from labctl.cli import top
from labctl.cli.top import Work, act, choose, keys
from labctl.labs.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Played:
    return Played(tmp_path)


def press(key: str, lab: Played, node: str, work: Work) -> None:
    act(key, cast("Lab", lab), node, work)
    assert until(lambda: not work.busy, Deadline(10), 0.01)
    work.check()


@pytest.mark.parametrize(("key", "broken"), [
    ("c", {"rs1 off"}), ("f", {"rs1 still"}), ("u", {"rs1 lan unplugged"}), ("s", {"rs1 apache2 stopped"})])
def test_each_fault_has_a_key_and_heals_by_one(key: str, broken: set[str], lab: Played) -> None:
    work = Work()
    press(key, lab, "rs1", work)
    assert lab.broken == broken
    assert "is in force" in work.status
    press("h", lab, "rs1", work)
    assert (lab.broken, work.wrong) == (set(), False)
    assert "is healed" in work.status


def test_one_key_heals_everything(lab: Played) -> None:
    work = Work()
    press("f", lab, "rs1", work)
    press("u", lab, "rs2", work)
    press("h", lab, "rs2", work)
    assert lab.broken == {"rs1 still"}
    press("c", lab, "rs2", work)
    press("H", lab, "lvs", work)
    assert (lab.broken, faults_of(lab).in_force()) == (set(), [])


@pytest.mark.parametrize(("presses", "said"), [
    ("ff", "in force already"), ("h", "Nothing is broken on purpose at 'client'."),
    ("H", "Nothing is broken on purpose in this lab."), ("s", "'client' runs no service that could be stopped.")])
def test_what_makes_no_sense_is_said_where_one_looks(presses: str, said: str, lab: Played) -> None:
    work = Work()
    for key in presses:
        press(key, lab, "client", work)
    assert said in work.status
    assert work.wrong


def test_other_keys_do_nothing(lab: Played) -> None:
    work = Work()
    for key in ("x", "1", "\x1b[A", "\r"):
        press(key, lab, "rs1", work)
    assert (lab.broken, work.status) == (set(), "")


def test_one_thing_is_done_at_a_time_and_called_off_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "_NEARLY_SECONDS", 0)
    work, begun = Work(), Event()

    def for_ever() -> str:
        begun.set()
        until(lambda: False, Deadline(60), 0.01)
        return "never"

    work.begin("heal rs1", for_ever)
    assert begun.wait(10)
    work.begin("crash rs1", lambda: "not now")
    assert work.status == "Not now: 'heal rs1' is not done yet."
    work.end()
    assert not work.busy
    work.check()


def test_a_bug_in_what_is_done_is_no_secret() -> None:
    def bug() -> str:
        raise ZeroDivisionError

    work = Work()
    work.begin("crash rs1", bug)
    work.end()
    with pytest.raises(ZeroDivisionError):
        work.check()


def test_gates_are_known_while_a_node_boots() -> None:
    work, go, seen = Work(), Event(), Event()

    def boot() -> str:
        work.passed("rs1", "booting")
        seen.set()
        go.wait(10)
        return "done"

    work.begin("heal rs1", boot)
    assert seen.wait(10)
    assert work.gates == {"rs1": "booting"}
    go.set()
    work.end()
    assert (work.gates, work.status) == ({}, "done")


@pytest.mark.parametrize(("key", "chosen", "expected"), [
    ("3", 0, 2), ("9", 1, 1), ("\x1b[A", 0, 0), ("\x1b[A", 2, 1), ("\x1bOB", 1, 2), ("\x1b[B", 4, 4), ("x", 3, 3),
    ("0", 3, 3)])
def test_a_node_is_chosen(key: str, chosen: int, expected: int) -> None:
    assert choose(key, chosen, 5) == expected


@pytest.fixture
def terminal() -> "tuple[int, int]":
    """Both ends of a terminal: the one that types, and the one that labctl has."""
    return pty.openpty()


def test_keys_are_read_one_by_one_and_the_terminal_is_as_it_was(terminal: tuple[int, int]) -> None:
    typing, ours = terminal
    before = termios.tcgetattr(ours)

    def interrupted(pressed: Callable[[float], list[str]]) -> None:
        assert pressed(0) == []
        os.write(typing, b"c\x1b[A\x1bOB2\x03")
        assert pressed(5) == ["c", "\x1b[A", "\x1bOB", "2", "\x03"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), top._pressed(ours) as pressed:
        interrupted(pressed)
    assert termios.tcgetattr(ours) == before
    os.close(typing)
    assert keys(ours, 5) == ["\x04"]  # The terminal is gone: that is the end.
    os.close(ours)


def test_without_a_terminal_one_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    error = refused("top")
    assert "needs a terminal" in error.message
    assert "--once" in error.hint


@pytest.mark.parametrize(("words", "said"), [
    (("nothing", "--once"), "No lab called 'nothing' is up."), (("-o", "json"), "'-o json' goes with '--once'.")])
def test_what_cannot_be_shown_is_refused(words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    assert refused("top", *words).message == said


def test_a_lab_that_is_down_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr("labctl.machines.private_room.PrivateRoom.is_open", lambda _: False)
    assert "is gone" in refused("top", "--once").message


def test_faults_that_stay_are_told_on_leaving(lab: Played, capsys: pytest.CaptureFixture[str]) -> None:
    top._say_what_stays(cast("Lab", lab))
    assert capsys.readouterr().err == ""
    press("f", lab, "rs1", Work())
    top._say_what_stays(cast("Lab", lab))
    assert capsys.readouterr().err == "In force still: freeze rs1. 'labctl heal --all' puts that back.\n"


def test_an_error_of_the_lab_is_a_status() -> None:
    def refuse() -> str:
        raise LabError("It does not work.\nReally.", hint="Try again.")

    work = Work()
    work.begin("crash rs1", refuse)
    work.end()
    assert (work.status, work.wrong) == ("It does not work. Try again.", True)
