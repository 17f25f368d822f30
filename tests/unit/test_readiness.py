"""labctl.labs.readiness: when it gives up, and what it says then."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from samples import KEEPALIVED, option, plan_of

from labctl.base.errors import GateError, Unreachable
from labctl.base.wait import Deadline
from labctl.labs.readiness import BOOT_ID, Gates, patience
from labctl.labs.ssh import Ssh
from labctl.machines.memory import wake
from labctl.plan.domain import Accel
from labctl.plan.plan import Plan


def test_emulation_and_crowds_take_longer() -> None:
    processors = os.cpu_count() or 1
    assert patience("kvm", 1) == 1
    assert patience("tcg", 1) == 8 * patience("kvm", 1)
    assert patience("kvm", 8 * processors) == 4


ALL_RUN = {node.name: "running" for node in plan_of().nodes}


def gates(console: Path | None, states: dict[str, str], ssh: Any = None, accel: Accel = "tcg",
          passed: list[str] | None = None, limit: float | None = None, greeting: str = "SSH-2.0-OpenSSH", *,
          hangs: bool = False) -> Gates:
    """Gates in front of machines in these states; without an `ssh` none of them ever answers."""
    room: Any = SimpleNamespace(console=lambda _: console, greeting=lambda *_: greeting,
                                serial=lambda _: Path("/serial"))
    provider: Any = SimpleNamespace(states=lambda: states, hangs=lambda *_: hangs)
    progress: Any = SimpleNamespace(passed=lambda _, gate: passed is None or passed.append(gate))
    return Gates(plan_of(), room, provider, ssh, accel, progress, limit)


@pytest.mark.parametrize(
    ("console", "reason"),
    [
        (
            "[  1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n",
            "the kernel panicked: VFS: Unable to mount",
        ),
        ("Booting from Hard Disk...\nNo bootable device.\n", "the disk does not boot"),
        ("You are in emergency mode. After logging in, type\n", "the system is in emergency mode"),
        ("labctl: the step rs1/arp failed\n", "the step rs1/arp failed"),
    ],
)
def test_a_machine_that_will_never_answer_is_not_waited_for(
    tmp_path: Path, console: str, reason: str
) -> None:
    log = tmp_path / "console.log"
    log.write_text(f"SeaBIOS\n{console}")
    plan = plan_of()
    with pytest.raises(GateError) as caught:
        gates(log, {"rs1": "running"}).wait_for_nodes([plan.node("rs1")])
    assert caught.value.message.startswith("'rs1' did not pass the gate")
    assert reason in caught.value.message
    assert f"    {console.splitlines()[-1]}" in caught.value.message


def test_what_a_node_said_before_it_was_started_again_is_no_cause(tmp_path: Path) -> None:
    plan = plan_of()
    log = tmp_path / "console.log"
    log.write_text("[  1.0] Kernel panic - not syncing: Fatal exception\n")
    passed: list[str] = []
    waiting = gates(log, {"client": "running"}, Rebooting(plan, "new"), "kvm", passed)
    waiting.turn_the_page([plan.node("client")])
    waiting.wait_for_nodes([plan.node("client")])
    assert passed == ["booting", "ssh", "configured", "units"]
    later = gates(log, {"client": "running"})
    with pytest.raises(GateError, match="Fatal exception"):
        later.wait_for_nodes([plan.node("client")])


@pytest.mark.parametrize(
    ("said", "reason"), [("", "it does not say"), ("a\nfailed\n", "'a' is failed"), ("a b\nactive\n", "'b' is unknown"),
                         ("a\nactivating\n", "'a' is activating")])
def test_services_that_are_not_up_are_told(said: str, reason: str) -> None:
    plan = plan_of()
    ssh = Rebooting(plan, "new", units=said)
    with pytest.raises(GateError, match=reason):
        gates(None, {"rs1": "running"}, ssh, "kvm", limit=0.01).wait_for_nodes([plan.node("rs1")])


@pytest.mark.parametrize("said", ["\n", "apache2\nactive\n"])
def test_services_that_no_step_needs_are_not_waited_for(said: str) -> None:
    plan = plan_of()
    passed: list[str] = []
    ssh = Rebooting(plan, "new", units=said)
    gates(None, {"rs1": "running"}, ssh, "kvm", passed, limit=0.01).wait_for_nodes([plan.node("rs1")])
    assert passed[-1] == "units"


@pytest.mark.parametrize(
    ("states", "reason"), [({}, "the machine is gone"), ({"rs1": "crashed"}, "is crashed")]
)
def test_a_machine_that_is_not_running_is_not_waited_for(states: dict[str, str], reason: str) -> None:
    with pytest.raises(GateError, match=reason) as caught:
        gates(None, states).wait_for_nodes([plan_of().node("rs1")])
    assert "console" not in caught.value.message


class Rebooting(Ssh):
    """The ssh of a node that goes down and comes back: the boot ids it tells, None while it does not answer."""

    def __init__(self, plan: Plan, *boots: str | None, late: float = 0, time_of_day: str | None = None,
                 units: str = "") -> None:
        super().__init__(Path("none"), Path)
        self._late = late
        self._time_of_day = time_of_day
        self._units = units
        self._digest = plan.digest
        self._boots = iter(boots)
        self.scripts: list[str] = []

    def run(self, node: str, script: str, timeout: float) -> subprocess.CompletedProcess[str]:  # noqa: ARG002
        self.scripts.append(script)
        out = ""
        if "result.json" in script:
            out = f'{{"v1": {{"errors": []}}}}\n{self._digest}\n'
        elif script == BOOT_ID:
            boot = next(self._boots)
            if boot is None:
                raise Unreachable("The node 'client' cannot be reached by SSH: no route.")
            out = f"{boot}\n"
        elif script.startswith("units="):
            out = self._units
        elif script == "date +%s.%N":
            out = f"{time.time() - self._late}\n" if self._time_of_day is None else self._time_of_day
        return subprocess.CompletedProcess([], 0, out, "")

    def close(self, node: str) -> None:
        self.scripts.append(f"close {node}")


def test_a_node_that_reboots_does_not_pass_before_it_has_gone_down() -> None:
    plan = plan_of()
    ssh = Rebooting(plan, "old", "old", None, None, "new")
    passed: list[str] = []
    waiting = gates(None, {"client": "running"}, ssh, "kvm", passed)
    waiting.wait_for_nodes([plan.node("client")], ["other", "old"])
    assert ssh.scripts[:7] == [BOOT_ID, "close client", BOOT_ID, "close client", BOOT_ID, BOOT_ID, BOOT_ID]
    assert passed == ["booting", "ssh", "configured", "units"]


@pytest.mark.parametrize(("late", "put"), [(0.04, []), (0.75, ["+0.75"]), (-86_400, ["-86400.0"])])
def test_a_node_that_has_booted_gets_the_time_unless_it_has_it(late: float, put: list[str]) -> None:
    plan = plan_of()
    ssh = Rebooting(plan, "new", late=late)
    gates(None, {"client": "running"}, ssh, "kvm").wait_for_nodes([plan.node("client")])
    given = [script.removeprefix("date -us '") for script in ssh.scripts if script.startswith("date -us")]
    assert len(given) == len(put)
    assert all(map(str.startswith, given, put))


@pytest.mark.parametrize(("boot", "reason"), [("old", "it does not go down."), (None, "no route; it may still be")])
def test_a_node_that_does_not_reboot_in_time_is_given_up(boot: str | None, reason: str) -> None:
    plan = plan_of()
    waiting = gates(None, {"client": "running"}, Rebooting(plan, *[boot] * 9), "kvm", limit=0.01)
    with pytest.raises(GateError, match=reason):
        waiting.wait_for_nodes([plan.node("client")], ["old"])


@pytest.mark.parametrize("said", ["", "Sat Nov 28", "1795898292.%N"])
def test_a_node_that_does_not_say_what_time_it_is_keeps_its_clock(said: str) -> None:
    plan = plan_of()
    ssh = Rebooting(plan, "new", time_of_day=said)
    gates(None, {"client": "running"}, ssh, "kvm").wait_for_nodes([plan.node("client")])
    assert not [script for script in ssh.scripts if script.startswith("date -us")]


class Woken(Ssh):
    """A node that goes on after it was saved: what it says to the first question, and what it is asked by SSH."""

    def __init__(self, *answers: str, waits: bool = True) -> None:
        super().__init__(Path("none"), Path)
        self.answers = list(answers)
        self.asked: list[tuple[str, float]] = []
        self.scripts: list[str] = []
        self._waits = waits

    def ask(self, port: Path, question: str, late: float, seconds: float) -> str:  # noqa: ARG002
        self.asked.append((question, late))
        if not self._waits:
            raise Unreachable("Nobody answers.")
        return self.answers.pop(0)

    def run(self, node: str, script: str, timeout: float) -> subprocess.CompletedProcess[str]:  # noqa: ARG002
        self.scripts.append(script)
        return subprocess.CompletedProcess([], 0, self.answers.pop(0), "")


@pytest.fixture
def goes_on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Woken]:
    """Makes a node of which readiness asks the first question."""
    def make(*answers: str, waits: bool = True) -> Woken:
        node = Woken(*answers, waits=waits)
        monkeypatch.setattr(wake, "ask", node.ask)
        return node

    return make


def test_a_node_that_goes_on_gets_the_time_and_is_asked_once(goes_on: Callable[..., Woken]) -> None:
    plan = plan_of()
    result = f'{{"v1": {{"errors": []}}}}\n{plan.digest}\n'
    node, passed = goes_on(f"{result}=end=\nactive\nactive\n=end=\n"), list[str]()
    gates(None, {"rs1": "running"}, node, "kvm", passed).wait_for_nodes([plan.node("rs1")], late={"rs1": 86400.25})
    assert [late for _, late in node.asked] == [86400.25]
    assert node.scripts == []
    assert passed == ["booting", "ssh", "configured", "units"]
    node = goes_on(f"{result}=end=\nactive\n=end=\n", "active\nactive\n")
    gates(None, {"rs1": "running"}, node, "kvm").wait_for_nodes([plan.node("rs1")], late={"rs1": 1})
    assert node.answers == []


def test_a_node_that_does_not_wait_for_the_first_question_is_asked_it_by_ssh(goes_on: Callable[..., Woken]) -> None:
    plan = plan_of()
    answer = f'{{"v1": {{"errors": []}}}}\n{plan.digest}\n=end=\nactive\nactive\n=end=\n'
    node, passed = goes_on(answer, waits=False), list[str]()
    gates(None, {"rs1": "running"}, node, "kvm", passed).wait_for_nodes([plan.node("rs1")], late={"rs1": 0.5})
    (question, _), script = node.asked[0], node.scripts[0]
    assert len(node.scripts) == 1
    assert "date -us '+0.500 seconds'" in script
    # Where the clock was put forward and the answer was lost, it is not put forward again.
    mark = question.rpartition(">")[2]
    assert script.startswith(f"[ -e {mark} ] || {{ : >{mark}; date ")
    assert passed == ["booting", "ssh", "configured", "units"]


def test_a_node_that_goes_on_without_ssh_is_refused(goes_on: Callable[..., Woken]) -> None:
    plan = plan_of()
    waiting = gates(None, {"rs1": "running"}, goes_on("said"), "kvm", limit=0.01, greeting="")
    with pytest.raises(GateError, match="'rs1' did not pass the gate 'ssh': its sshd does not answer"):
        waiting.wait_for_nodes([plan.node("rs1")], late={"rs1": 1})


def test_a_node_that_goes_on_with_another_plan_is_refused(goes_on: Callable[..., Woken]) -> None:
    plan = plan_of()
    node = goes_on('{"v1": {"errors": []}}\nsome other\n=end=\nactive\nactive\n=end=\n')
    with pytest.raises(GateError, match="the steps were not all done"):
        gates(None, {"rs1": "running"}, node, "kvm").wait_for_nodes([plan.node("rs1")], late={"rs1": 1})


def test_a_lab_that_goes_on_says_by_its_first_answers_that_it_serves_or_is_asked_again(
    goes_on: Callable[..., Woken]
) -> None:
    plan = plan_of()
    done = f'{{"v1": {{"errors": []}}}}\n{plan.digest}\n=end=\nactive\n=end=\n'
    page = "HTTP/1.0 200 OK\n\nrs1\n"
    for first, later in ((page, []), ("", ["", page])):
        node = goes_on(f"{done}2: eth0 inet 10.10.10.100/32\n=end=\n", f"{done}{first}=end=\n", *later)
        waiting = gates(None, ALL_RUN, node, "kvm")
        waiting.wait_for_nodes([plan.node("lvs"), plan.node("client")], late={"lvs": 1, "client": 1}, at_once=1)
        waiting.wait_for_service()
        assert node.answers == []
        assert len(node.scripts) == len(later)
        assert f"to {plan.frontends()[0].address}" in node.asked[0][0]
        assert "GET / HTTP/1.0" in node.asked[1][0]


@pytest.mark.parametrize(("vrrp", "seconds"), [("", 30 + 3 + 156 / 256), ("advert: 10", 30 + 30 + 156 / 256)])
def test_a_vip_is_waited_for_as_long_as_an_election_takes_besides(
        vrrp: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(Gates, "_deadline", lambda _, seconds: waited.append(seconds) or Deadline(0))
    waiting = gates(None, ALL_RUN)
    waiting._plan = plan_of(option(f"vrrp: {{ {vrrp} }}", KEEPALIVED))
    monkeypatch.setattr(waiting, "_holders", lambda _: [])
    with pytest.raises(GateError, match=r"The VIP 10\.10\.10\.100 should be held by 'lvs' alone, but no node holds it"):
        waiting.wait_for_service()
    assert waited == [seconds]


def test_the_first_failure_is_told_and_not_that_the_others_were_called_off() -> None:
    plan = plan_of()
    with pytest.raises(GateError, match="did not pass the gate"):
        gates(None, {}).wait_for_nodes(plan.nodes)


def test_machines_are_started_as_many_at_once_as_may_be_and_none_after_a_failure() -> None:
    plan, started = plan_of(), list[str]()
    with pytest.raises(GateError, match=f"'{plan.nodes[0].name}' did not pass the gate"):
        gates(None, {}).wait_for_nodes(plan.nodes, start=lambda node: started.append(node.name), at_once=1)
    assert started == [plan.nodes[0].name]


def test_a_console_is_shown_by_its_last_lines_without_control_sequences(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    lines = [f"line {number}" for number in range(100)]
    log.write_bytes(
        "\r\n".join(
            [*lines, "\x1b[0;32m  OK  \x1b[0m\x07 done\x1b[K", "\x1b(B", "", "\ufffd\x00end"]
        ).encode()
    )
    tail = gates(log, {}).console_tail(plan_of().node("rs1")).splitlines()
    assert tail[-2:] == ["      OK   done", "    \ufffdend"]
    assert tail[-3] == "    line 99"
    assert len(tail) == 15


def test_a_console_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert gates(tmp_path / "none", {}).console_tail(plan_of().node("rs1")) == ""
    assert gates(None, {}).console_tail(plan_of().node("rs1")) == ""


# ---- Whatever a guest says ------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [
    "x", "{}", "[]", "7", "null", '{"v1": {}}', '{"v1": []}', '{"v1": {"errors": 7}}', '{"v1": null}', "[" * 100_000])
def test_what_cloud_init_did_not_write_is_refused(said: str) -> None:
    plan = plan_of()
    ssh = SimpleNamespace(
        run=lambda _, script, __: subprocess.CompletedProcess([], 0, said if "result.json" in script else "1", ""),
        clock_ahead=lambda *_: 0.0)
    with pytest.raises(GateError, match=r"/run/cloud-init/result.json is not what cloud-init writes"):
        gates(None, {"client": "running"}, ssh, "kvm").wait_for_nodes([plan.node("client")])


def test_errors_of_any_length_become_a_message_of_some_lines() -> None:
    plan = plan_of()
    said = '{"v1": {"errors": ["' + "x" * 10**6 + '"]}}'
    ssh = SimpleNamespace(run=lambda *_: subprocess.CompletedProcess([], 0, said, ""), clock_ahead=lambda *_: 0.0)
    with pytest.raises(GateError, match="cloud-init reports: xxx") as caught:
        gates(None, {"client": "running"}, ssh, "kvm").wait_for_nodes([plan.node("client")])
    assert len(caught.value.message) < 1000


def test_a_console_of_any_size_is_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    with log.open("wb") as file:
        file.truncate(2**40)
        file.seek(2**40)
        file.write(b"\nthe end\n")
    assert gates(log, {}).console_tail(plan_of().node("rs1")) == "    the end"


def test_a_machine_that_hangs_is_not_waited_for() -> None:
    plan = plan_of()
    waiting = gates(None, {"client": "running"}, Rebooting(plan, *[None] * 9), "kvm", hangs=True)
    with pytest.raises(GateError, match="its QEMU hangs"):
        waiting.wait_for_nodes([plan.node("client")])


def test_a_lab_of_which_a_machine_is_off_does_not_serve() -> None:
    """Also if no VIP needs it."""
    waiting = gates(None, {**ALL_RUN, "out": "paused"})
    for wait in (waiting.wait_for_service, waiting.look):
        with pytest.raises(GateError, match="'out' did not pass the gate 'booting': the machine is paused"):
            wait()
