"""labctl.plan.probe and labctl.observe.doctor: what is asked of a guest's node, and what is made of the answers."""

import itertools
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from samples import GUESTS
from typer.testing import CliRunner, Result

from labctl.base.errors import GateError, LabError
from labctl.cli import app
from labctl.labs import lifecycle
from labctl.observe import doctor
from labctl.plan import guests, probe
from labctl.plan.probe import Probe

_QUESTIONS = doctor.questions


@cache
def asked(name: str) -> list[Probe]:
    """The questions of a guest, which follow from the plans of all labs."""
    guest = guests.load(name)
    return _QUESTIONS(guest, doctor.plan_for(guest))


@pytest.mark.parametrize("name", GUESTS)
def test_all_that_a_guest_says_of_itself_is_asked_for(name: str) -> None:
    guest = guests.load(name)
    commands = "\n".join(each.command for each in asked(name))
    for value in guest.facts.values():
        assert (value.split()[0] if value.startswith("/") else value) in commands
    for package, version in guest.versions.items():
        question, = (each for each in asked(name) if each.what == f"package {package}")
        assert (question.expected, question.at_least) == (version, True)
        assert re.search(rf" {re.escape(package)}( |$)", question.command)


@pytest.mark.parametrize(("name", "units"), [
    ("centos-7", {"haproxy", "heartbeat", "httpd", "ipvsadm", "keepalived", "nginx", "ntpd"}),
    ("debian-12", {"apache2", "haproxy", "heartbeat", "ipvsadm", "keepalived", "nginx", "ntpsec"}),
    ("rocky-9", {"haproxy", "httpd", "ipvsadm", "keepalived", "nginx"}),
])
def test_the_units_are_those_that_steps_enable_and_do_not_write(name: str, units: set[str]) -> None:
    assert {each.what.removeprefix("unit ") for each in asked(name) if each.what.startswith("unit ")} == units


def test_no_two_questions_are_the_same() -> None:
    for name in GUESTS:
        names = [each.what for each in asked(name)]
        assert len(set(names)) == len(names)


def test_the_interfaces_are_those_of_the_plan() -> None:
    planned = doctor.plan_for(guests.load("centos-7"))
    node, = planned.nodes
    expected = {each.what: each.expected for each in asked("centos-7")}
    assert [interface.name for interface in node.interfaces] == ["eth0", "eth1"]
    for interface in node.interfaces:
        assert expected[f"interface {interface.name}"] == f"{interface.mac} {interface.address}/{interface.prefix}"


@pytest.mark.parametrize(("expected", "at_least", "seen", "holds"), [
    ("disabled inactive", False, "disabled inactive", True),
    ("media.repo", False, "media.repo other.repo", False),
    ("2.4", True, "2.4.62-1~deb12u2", True),
    ("2.4", True, "2.4", True),
    ("2.4", True, "2.41", False),
    ("2.4", True, "2.4b", False),
    ("2.4", True, "1.2.4", False),
    ("2.4", True, "214", False),
    ("yes", False, "", False),
])
def test_what_holds(expected: str, at_least: bool, seen: str, holds: bool) -> None:
    assert Probe("it", "true", expected, at_least).holds(seen) == holds


def test_a_script_prints_a_line_for_each_question() -> None:
    script = probe.script([Probe("quotes", "echo 'a\nb'", "a b"), Probe("stdin", "cat", "")])
    assert len(re.findall("^printf ", script, re.MULTILINE)) == 2
    assert probe.answers("a b \n\n  x\ty  \n") == ["a b", "", "x y"]


# ---- The command ----------------------------------------------------------------------------------------------


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable[[Sequence[Probe]], str]], list[str]]:
    """Pretends that a node comes up and answers; returns what becomes of its lab."""
    console = tmp_path / "console"
    console.write_text(f"login: {probe.CONSOLE_LINE}\r\n")

    def pretend(say: Callable[[Sequence[Probe]], str]) -> list[str]:
        history: list[str] = []

        def up(planned: object, *_: object, once: bool) -> SimpleNamespace:
            history.append("up" if once else "up, and saved")
            return SimpleNamespace(
                plan=planned, name="doctor", patience=0.001, host=SimpleNamespace(console=lambda _: console),
                ssh=SimpleNamespace(do=lambda *_: say(asked("debian-12"))))

        monkeypatch.setattr(doctor, "questions", lambda guest, _: asked(guest.name))
        monkeypatch.setattr(lifecycle, "accelerator", lambda *_: ("kvm", ""))
        monkeypatch.setattr(lifecycle, "up", up)
        monkeypatch.setattr(lifecycle, "down", lambda name: history.append(f"down {name}"))
        return history

    return pretend


def typed(*words: str) -> Result:
    return CliRunner().invoke(app, words, catch_exceptions=False)


def as_expected(probes: Sequence[Probe]) -> str:
    return "".join(f"{each.expected} \n" for each in probes)


def test_when_all_holds_it_says_so(node: Callable[..., list[str]]) -> None:
    history = node(as_expected)
    result = typed("doctor", "--guest", "debian-12")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == len(asked("debian-12")) + 1
    assert all(line.startswith("✓ ") for line in lines)
    assert "✓ unit apache2: disabled ActiveState=inactive" in lines
    assert "✓ host name: Node1" in lines, "only a capital shows whether the guest keeps it"
    assert f"{len(lines)} of {len(lines)} assumptions hold for the image of 'debian-12'." in result.stderr
    assert history == ["up", "down doctor"]


@pytest.mark.parametrize("wrong", range(0, 40, 7))
def test_what_does_not_hold_is_told_with_what_should_be(node: Callable[..., list[str]], wrong: int) -> None:
    node(lambda probes: as_expected(probes[:wrong]) + "strange\n" + as_expected(probes[wrong + 1:]))
    result = typed("doctor", "--guest", "debian-12")
    assert result.exit_code == 1
    question = asked("debian-12")[wrong]
    found = [line for line in result.stdout.splitlines() if line.startswith("✗")]
    assert found == [f"✗ {question.what}: strange, and should be: {question.expected}"]


def test_a_console_that_says_nothing_is_told(node: Callable[..., list[str]], tmp_path: Path) -> None:
    node(as_expected)
    (tmp_path / "console").write_text("")
    result = typed("doctor", "--guest", "debian-12")
    assert result.exit_code == 1
    assert "✗ console's log: has nothing of what the node writes" in result.stdout


@pytest.mark.parametrize("error", [KeyboardInterrupt(), LabError("The node 'node' did not answer within 60 s.")])
def test_whatever_happens_nothing_is_left(node: Callable[..., list[str]], error: BaseException) -> None:
    def fail(_: object) -> str:
        raise error

    history = node(fail)
    if isinstance(error, LabError):
        with pytest.raises(LabError, match="did not answer"):
            typed("doctor", "--guest", "debian-12")
    else:
        assert typed("doctor", "--guest", "debian-12").exit_code == 130
    assert history == ["up", "down doctor"]


def test_of_a_machine_that_does_not_come_up_it_is_said_how_to_look_into_one(
    node: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch,
) -> None:
    def up(*_: object, **__: object) -> None:
        raise GateError("'node' did not pass the gate 'ssh'.", hint="'--keep' leaves it.")

    history = node(as_expected)
    monkeypatch.setattr(lifecycle, "up", up)
    with pytest.raises(GateError, match="did not pass") as caught:
        typed("doctor", "--guest", "debian-12")
    assert "labctl up base --guest debian-12 --keep" in caught.value.hint
    assert history == []


def test_the_questions_of_guests_differ_in_their_names_only_where_they_should() -> None:
    for one, other in itertools.combinations(GUESTS, 2):
        common = {each.what for each in asked(one)} & {each.what for each in asked(other)}
        assert {"host name", "clock", "SELinux", "IPVS and its schedulers", "package sources"} <= common
