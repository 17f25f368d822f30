"""labctl.observe.hosts: nodes as testinfra hosts."""

from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from labctl.base.errors import Unreachable
from labctl.observe import hosts

if TYPE_CHECKING:
    from labctl.labs.lab import Lab


def lab(status: int, out: str, err: str = "") -> tuple["Lab", list[str]]:
    """A lab whose nodes answer like this, and what they are told."""
    told: list[str] = []

    def run(node: str, script: str, timeout: float) -> CompletedProcess[str]:
        told.append(f"{node} {timeout:.0f} {script}")
        if status == 255:
            raise Unreachable(f"The node '{node}' did not answer.")
        return CompletedProcess([], status, out, err)

    return cast("Lab", SimpleNamespace(ssh=SimpleNamespace(run=run), patience=2.0)), told


def test_a_node_runs_a_command_with_quoted_arguments_and_takes_no_input() -> None:
    played, told = lab(3, "张 三\n", "é")
    result = hosts.host(played, "rs1").run("cat %s", "/home/张 三/it's")
    assert told == ["rs1 120 { cat '/home/张 三/it'\"'\"'s'\n} </dev/null"]
    assert (result.rc, result.stdout, result.stderr) == (3, "张 三\n", "é")


def test_a_node_that_does_not_answer_is_named_in_a_sentence() -> None:
    with pytest.raises(Unreachable, match=r"^The node 'rs1' did not answer\.$"):
        hosts.host(lab(255, "")[0], "rs1").run("true")
