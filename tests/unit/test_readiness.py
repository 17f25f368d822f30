"""labctl.readiness: when it gives up, and what it says then."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from samples import plan_of

from labctl.errors import GateError
from labctl.readiness import Gates, patience


def test_emulation_and_crowds_take_longer() -> None:
    processors = os.cpu_count() or 1
    assert patience("kvm", 1) == 1
    assert patience("tcg", 1) == 8 * patience("kvm", 1)
    assert patience("kvm", 8 * processors) == 4


def gates(console: Path | None, states: dict[str, str]) -> Gates:
    """Gates in front of machines in these states; none of them ever answers."""
    room: Any = SimpleNamespace(console=lambda _: console)
    provider: Any = SimpleNamespace(states=lambda: states)
    nothing: Any = SimpleNamespace(passed=lambda *_: None, say=lambda *_: None)
    return Gates(plan_of(), room, provider, ssh=nothing, accel="tcg", progress=nothing)


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


@pytest.mark.parametrize(
    ("states", "reason"), [({}, "the machine is gone"), ({"rs1": "crashed"}, "is crashed")]
)
def test_a_machine_that_is_not_running_is_not_waited_for(states: dict[str, str], reason: str) -> None:
    with pytest.raises(GateError, match=reason) as caught:
        gates(None, states).wait_for_nodes([plan_of().node("rs1")])
    assert "console" not in caught.value.message


def test_the_first_failure_is_told_and_not_that_the_others_were_called_off() -> None:
    plan = plan_of()
    with pytest.raises(GateError, match="did not pass the gate"):
        gates(None, {}).wait_for_nodes(plan.nodes)


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
