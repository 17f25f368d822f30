"""labctl.observe.checks: pytest runs a suite, and each check comes to a verdict."""

import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from samples import KEEPALIVED, NAT, plan_of

from labctl.base import paths, resources
from labctl.base.errors import LabError, Unreachable
from labctl.labs.lab import locked, under_test
from labctl.observe import checks
from labctl.observe.verdict import Check, CheckFailed, Measured, Verdict

if TYPE_CHECKING:
    from labctl.labs.lab import Lab

SUITE = '''
import warnings
import pytest
from labctl.base.errors import Unreachable
from labctl.observe.fixtures import LAB
from labctl.observe.verdict import CheckFailed, Measured

def pytest_generate_tests(metafunc):
    if "node" in metafunc.fixturenames:
        metafunc.parametrize("node", [node.name for node in metafunc.config.stash[LAB].plan.nodes])

def test_fine(node):
    """all is well

    More about it.
    """
    warnings.warn("somebody's package is old", DeprecationWarning)

def test_measured(record_property):
    """it is quick"""
    record_property("measured", Measured(value=1.5, unit="s", bound=3))

def test_wrong():
    """nobody is in the way"""
    raise CheckFailed("'rs1' is in the way.", ["rs1/arp"])

def test_silent():
    """somebody answers"""
    raise Unreachable("The node 'rs1' did not answer.")

def test_buggy():
    """this can be looked at"""
    return [][1]

@pytest.fixture
def lost():
    raise Unreachable("The node 'rs2' did not answer.")

def test_never_begun(lost):
    """this is never looked at"""
'''


class Noted:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.begun: list[Check] = []
        self.ended: list[Verdict] = []

    def say(self, text: str) -> None:
        pass

    def begins(self, check: Check) -> None:
        self.begun.append(check)

    def ends(self, verdict: Verdict) -> None:
        self.ended.append(verdict)


def lab_of(text: str, *, exercise: bool = False) -> "Lab":
    return cast("Lab", SimpleNamespace(plan=plan_of(text), name="mine", directory=Path("labs", "mine"),
                                       record=SimpleNamespace(exercise=exercise)))


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite of checks that end in all ways."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # What sets it, here takes it back.
    (tmp_path / "labs" / "mine").mkdir(parents=True)
    (tmp_path / "test_of_this_suite.py").write_text(SUITE)
    monkeypatch.delitem(sys.modules, "test_of_this_suite", raising=False)  # It was another test's.
    shutil.copy(resources.CHECKS / "pytest.ini", tmp_path)
    monkeypatch.setattr(checks, "CHECKS", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("suite")
def test_each_check_comes_to_a_verdict_and_is_announced() -> None:
    watcher = Noted()
    verdicts = checks.run(lab_of(NAT), watcher)
    nodes = [node.name for node in plan_of(NAT).nodes]
    assert [(verdict.id, verdict.outcome) for verdict in verdicts] == [
        *((f"{node}/fine", "passed") for node in nodes), ("measured", "passed"), ("wrong", "failed"),
        ("silent", "unknown"), ("buggy", "unknown"), ("never_begun", "unknown")]
    assert watcher.ended == verdicts
    assert [check.id for check in watcher.begun] == [verdict.id for verdict in verdicts]
    first = verdicts[0]
    assert (first.title, first.subject) == (f"{nodes[0]}: all is well", nodes[0])
    found = {verdict.id: verdict for verdict in verdicts}
    assert found["measured"].measured == Measured(value=1.5, unit="s", bound=3)
    assert (found["wrong"].message, found["wrong"].suspects) == ("'rs1' is in the way.", ("rs1/arp",))
    assert found["silent"].message == "The node 'rs1' did not answer."
    assert found["buggy"].message == ("This is a bug in the check (test_of_this_suite.py, line 33); please report it: "
                                      "IndexError: list index out of range")
    assert found["never_begun"].message == "The node 'rs2' did not answer."


@pytest.mark.usefixtures("suite")
def test_the_verdict_on_an_exercise_names_no_suspects() -> None:
    watcher = Noted()
    verdict, = checks.run(lab_of(NAT, exercise=True), watcher, "in the way")
    assert (verdict.outcome, verdict.message, verdict.suspects) == ("failed", "'rs1' is in the way.", ())
    assert watcher.ended == [verdict]


@pytest.mark.usefixtures("suite")
def test_output_that_nobody_reads_ends_the_run_and_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    class Unread(Noted):
        def ends(self, verdict: Verdict) -> None:
            super().ends(verdict)
            raise SystemExit(1)

    watcher = Unread()
    with pytest.raises(SystemExit):
        checks.run(lab_of(NAT), watcher)
    assert len(watcher.ended) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("suite")
def test_only_the_checks_that_match_are_made() -> None:
    watcher = Noted()
    assert [verdict.id for verdict in checks.run(lab_of(NAT), watcher, "quick or in the way")] == ["measured", "wrong"]
    assert [check.id for check in watcher.begun] == ["measured", "wrong"]
    assert checks.run(lab_of(NAT), watcher, "nothing like this") == []


@pytest.mark.usefixtures("suite")
def test_a_seed_stands_for_an_order() -> None:
    def order(seed: int) -> list[str]:
        return [verdict.id for verdict in checks.run(lab_of(NAT), Noted(), seed=seed)]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))


INTERRUPTED = '''
import os
import signal

def test_first():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        pass  # As Python does in __del__.

def test_second():
    raise AssertionError("This is not to run any more.")
'''


def test_an_interruption_that_python_drops_ends_the_run(suite: Path) -> None:
    (suite / "test_of_this_suite.py").write_text(INTERRUPTED)
    watcher = Noted()
    told: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: told.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            checks.run(lab_of(NAT), watcher)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [check.id for check in watcher.begun] == ["first"]
    assert told == [signal.SIGINT], "whoever handled the signal before does so as well"


@pytest.mark.usefixtures("suite")
def test_a_lab_is_tested_by_one_at_a_time_and_not_changed_meanwhile() -> None:
    with under_test("mine"):
        with pytest.raises(LabError, match="A test or drill of the lab 'mine' is running"):
            checks.run(lab_of(NAT), Noted())
        with pytest.raises(LabError, match="A test or drill of the lab 'mine' is running"), locked("mine"):
            pass
    with locked("mine"), pytest.raises(LabError, match="Another labctl is changing the lab 'mine'"):
        checks.run(lab_of(NAT), Noted())


def test_a_test_that_was_killed_leaves_nothing_once_the_lab_is_changed() -> None:
    paths.labs().mkdir(parents=True)
    (paths.labs() / ".mine.test").touch()
    with locked("mine"):
        pass
    assert list(paths.labs().iterdir()) == []


def test_a_suite_that_cannot_be_read_is_a_bug(suite: Path) -> None:
    (suite / "test_torn.py").write_text("def")
    with pytest.raises(RuntimeError, match="invalid syntax"):
        checks.choose(lab_of(NAT))


def test_the_real_suite_has_titles_for_people_and_ids_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    found = checks.choose(lab_of(KEEPALIVED))
    assert len({check.id for check in found}) == len(found) > 10
    assert [check for check in found if "test_" in check.title] == []
    assert {"web/spread", "web/crash", "packages"} <= {check.id for check in found}
    assert [check.id for check in checks.choose(lab_of(KEEPALIVED), "exactly as the scheduler")] == ["web/spread"]


def test_a_machine_by_itself_has_no_check_that_needs_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    alone = "\n".join(["title: One", "networks:", "  lan: { subnet: 10.10.10.0/24, host: 10.10.10.1 }", "nodes:",
                       "  web: { lan: 10.10.10.11 }"])
    assert "web/no_firewall" not in {check.id for check in checks.choose(lab_of(alone))}
    assert "web/no_firewall" in {check.id for check in checks.choose(lab_of(alone + "\n  db: { lan: 10.10.10.12 }"))}


@pytest.mark.parametrize(("problem", "outcome", "message", "suspects"), [
    (None, "passed", "", ()),
    (CheckFailed("Wrong.", ["a/b"]), "failed", "Wrong.", ("a/b",)),
    (LabError("Gone."), "unknown", "Gone.", ()),
    (Unreachable("Silent."), "unknown", "Silent.", ()),
    (KeyError("x"), "unknown", "This is a bug in the check; please report it: KeyError: 'x'", ()),
    (AssertionError(), "unknown", "This is a bug in the check; please report it: AssertionError: ", ()),
])
def test_a_problem_is_judged(problem: Exception | None, outcome: str, message: str, suspects: tuple[str, ...]) -> None:
    verdict = checks.judged(Check(id="a/b", title="a: b", subject="a"), problem, 0.12345)
    assert (verdict.outcome, verdict.message, verdict.suspects, verdict.seconds) == (outcome, message, suspects, 0.123)
