"""labctl.cli: commands for nodes, with labs that only seem to be there."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import refused, typed
from pretend import pretend
from samples import BASE, second_ipvs
from typer.testing import CliRunner

from labctl.base import process
from labctl.base.errors import Unreachable
from labctl.cli import app, common
from labctl.labs import ssh
from labctl.labs.ssh import Ssh

# ---- ssh, exec ------------------------------------------------------------------------------------------------


class Program:
    """Takes the place of programs: remembers their command lines, and ends as it is told."""

    def __init__(self, code: int = 0, said: bytes = b"", complained: bytes = b"") -> None:
        self.lines: list[list[str]] = []
        self.code, self.said, self.complained = code, said, complained

    def relay(self, argv: list[str], out: Callable[[bytes], None], err: Callable[[bytes], None],
              timeout: float | None = None) -> int:
        """Take the place of process.relay."""
        self.lines.append([str(word) for word in argv])
        assert timeout is None or timeout > 0
        out(self.said)
        err(self.complained)
        return self.code

    def run(self, argv: list[Any], **_: Any) -> subprocess.CompletedProcess[str]:
        """Take the place of process.run."""
        self.lines.append([str(word) for word in argv])
        return subprocess.CompletedProcess([], self.code, self.said.decode(), self.complained.decode())


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    """What ssh, scp and tail are here."""
    made = Program()
    monkeypatch.setattr(ssh, "relay", made.relay)
    monkeypatch.setattr(ssh, "run", made.run)
    monkeypatch.setattr(process, "relay", made.relay)
    return made


LINES = [
    (["uptime"], "uptime"),
    (["a | b"], "a | b"),
    (["--", "a | b"], "a | b"),
    (["ls", "-l", "/a b"], "ls -l '/a b'"),
    (["--", "grep", "--", "-x", "f"], "grep -- -x f"),
    (["sh", "-c", "exit 9"], "sh -c 'exit 9'"),
    (["--", "-x"], "-x"),
]


@pytest.mark.parametrize(("words", "line"), LINES)
def test_one_word_is_a_line_of_shell_and_several_get_there_as_they_are(
    monkeypatch: pytest.MonkeyPatch, program: Program, words: list[str], line: str,
) -> None:
    pretend(monkeypatch)
    typed("exec", "rs1", *words)
    assert program.lines[-1][-3:] == ["rs1", "--", line]
    became: list[list[str]] = []
    monkeypatch.setattr(process, "become", became.append)
    typed("ssh", "lab/rs1", *words)
    assert became[0][-3:] == ["rs1", "--", line]


def test_without_a_command_ssh_is_a_shell_and_exec_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    became: list[list[str]] = []
    monkeypatch.setattr(process, "become", became.append)
    typed("ssh", "rs1", "--")
    assert became[0][-2:] == ["-t", "rs1"]
    assert refused("exec", "rs1", "--").message == "The command is missing."


def test_exec_passes_on_what_nodes_say_and_their_highest_code(
    monkeypatch: pytest.MonkeyPatch, program: Program,
) -> None:
    pretend(monkeypatch)
    program.said, program.complained = b"\x1b[2J\xff\r\n", b"oh\n"
    result = CliRunner().invoke(app, ["exec", "rs1", "x"])
    assert (result.stdout_bytes, result.stderr_bytes) == (b"\x1b[2J\xff\r\n", b"oh\n")
    program.code = 3
    result = CliRunner().invoke(app, ["exec", "rs*", "x"])
    assert result.exit_code == 3
    assert result.stdout_bytes == b"rs1: \x1b[2J\xff\r\nrs2: \x1b[2J\xff\r\n"
    assert result.stderr_bytes == b"rs1: oh\nrs2: oh\n"


def test_a_command_may_end_as_ssh_does_when_a_node_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, program: Program,
) -> None:
    nodes = pretend(monkeypatch)
    program.code = 255
    asked: list[str] = []

    def run(_self: Ssh, node: str, script: str, timeout: float) -> None:
        assert timeout > 0
        asked.append(script)
        if node in nodes.silent:
            raise Unreachable(f"The node '{node}' cannot be reached.")

    monkeypatch.setattr(Ssh, "run", run)
    assert CliRunner().invoke(app, ["exec", "rs1", "exit 255"]).exit_code == 255
    nodes.silent = {"rs1"}
    assert refused("exec", "rs1", "true").message == "The node 'rs1' cannot be reached."
    assert asked == ["true", "true"]


def test_logs_are_passed_on_as_they_are(monkeypatch: pytest.MonkeyPatch, program: Program, tmp_path: Path) -> None:
    pretend(monkeypatch)
    said = b"\x1b[0;32mOK\x1b[0m\r\nno end"
    for console in tmp_path.glob("**/labs/lab"):
        (console / "consoles").mkdir()
        (console / "consoles" / "rs1.log").write_bytes(said)
    assert CliRunner().invoke(app, ["logs", "rs1"]).stdout_bytes == said
    program.said = said
    assert CliRunner().invoke(app, ["logs", "-f", "rs1"]).stdout_bytes == said
    assert program.lines[0][:4] == ["tail", "-n", "+1", "-f"]
    assert "There is no log" in refused("logs", "rs2").message


# ---- cp ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("paths", "words"), [
    (["a", "rs1:/etc/x"], ["./a", "rs1:/etc/x"]),
    (["lab/rs1:/etc/x y", "lab/rs2:", "."], ["rs1:/etc/x y", "rs2:", "./."]),
    (["/a", "-b", "rs1:x"], ["/a", "./-b", "rs1:x"]),
    (["./rs2:x", "rs1:x:y"], ["././rs2:x", "rs1:x:y"]),
    (["a/b/c:d", "rs1:"], ["./a/b/c:d", "rs1:"]),
])
def test_cp_is_scp_with_the_labs_names(
    monkeypatch: pytest.MonkeyPatch, program: Program, paths: list[str], words: list[str],
) -> None:
    pretend(monkeypatch)
    typed("cp", "--", *paths)
    line = program.lines[0]
    assert line[0] == "scp"
    assert line[line.index("--") + 1:] == words
    assert "-r" not in line
    typed("cp", "-r", "--", *paths)
    assert "-r" in program.lines[1]


def test_cp_refuses_what_it_cannot_copy(monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    pretend(monkeypatch)
    assert "needs a source and a target" in refused("cp", "rs1:/x").message
    assert "on a node" in refused("cp", "a", "b").message
    assert "Did you mean" in refused("cp", "a", "rs3:/x").hint
    pretend(monkeypatch, "two", second_ipvs(BASE))
    assert refused("cp", "lab/rs1:/x", "two/rs1:/x").message == "These paths are in several labs: lab, two."
    assert "Several labs have a node called 'rs1'" in refused("cp", "rs1:/x", ".").message
    assert program.lines == []


def test_cp_says_what_could_not_be_copied(monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    pretend(monkeypatch)
    program.code, program.complained = 1, b"scp: /x: No such file\nscp: d: not a regular file\n"
    error = refused("cp", "rs1:/x", "rs1:d", ".")
    assert error.message == "Not everything could be copied:\n/x: No such file\nd: not a regular file"
    assert error.hint.startswith("'-r'")


# ---- Several steps -----------------------------------------------------------------------------------------------


def test_several_steps_are_taken_back_as_they_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = pretend(monkeypatch)
    typed("undo", "rs1/arp", "lab/rs2/vip-lo")
    typed("apply", "rs2/vip-lo", "rs1/arp")
    assert nodes.done == ["undo rs1/arp", "undo rs2/vip-lo", "apply rs2/vip-lo", "apply rs1/arp"]


@pytest.mark.parametrize("verb", ["undo", "apply"])
def test_a_typing_error_leaves_all_steps_as_they_are(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    nodes = pretend(monkeypatch)
    assert "Did you mean 'arp'?" in refused(verb, "web", "rs1/apr").hint
    assert nodes.done == []


def test_steps_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    assert {"rs1/arp", "web", "lab/rs1/arp", "lab/web"} <= set(common.step_names())
    pretend(monkeypatch, "two", second_ipvs(BASE))
    assert {"lab/web", "two/shop"} <= set(common.step_names())
    assert not [name for name in common.step_names() if re.match(r"two/lab|lab/two|lab/shop", name)]

