"""Running commands on a lab's nodes by SSH."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from labctl.base import proc
from labctl.base.errors import LabError, Unreachable
from labctl.base.process import CommandError, TooMuch, TooSlow, relay, run

_CONNECTION_FAILED = 255
_GUESTS_OWN = "labctl: this exit code is the guest's"
_SHELL = f"sh -s; code=$?; [ $code -ne {_CONNECTION_FAILED} ] || echo \"{_GUESTS_OWN}\" >&2; exit $code"
"""Runs a script on the node; marks a script's exit code of 255, which is also ssh's own for a failed connection."""
_TIME = re.compile(r"\d{1,12}\.\d{1,9}")
_GREETING_SECONDS = 2
"""For the process behind a shared connection to greet at its socket, which it normally does at once."""
_END_SECONDS = 5
"""For that process to end."""
_LINE = 300
"""The most characters of a guest's output in a message."""
_CLOCK_QUESTIONS = 4
_QUICK_SECONDS = 0.25
"""A node that tells its time within this need not be asked again."""


class Ssh:
    """The nodes of one ssh_config."""

    def __init__(self, config: Path, control: Callable[[str], Path]) -> None:
        """`control` returns the path of the socket of a node's shared connection."""
        self._config = config
        self._control = control

    def command(self, node: str, line: str = "", *, terminal: bool = False, alone: bool = False) -> list[str]:
        """The ssh command line that runs a line of shell on the node, or a login shell.

        What runs `alone` has a connection of its own, which ends with ssh.
        """
        if not alone:
            self._drop_if_it_hangs(node)
        return ["ssh", "-F", str(self._config), *(["-S", "none"] if alone else []), *(["-t"] if terminal else []), node,
                *(["--", line] if line else [])]

    def run(self, node: str, script: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a shell script on a node. Raises Unreachable if it cannot be reached within `timeout` seconds."""
        try:
            result = run(self.command(node, _SHELL), stdin=script, check=False, timeout=timeout)
        except TooSlow:
            raise Unreachable(f"The node '{node}' did not answer within {timeout:.0f} s.") from None
        except TooMuch:
            raise Unreachable(f"The node '{node}' answers without end.") from None
        if result.returncode == _CONNECTION_FAILED:
            said, is_the_guests, _ = result.stderr.rpartition(f"{_GUESTS_OWN}\n")
            if not is_the_guests:
                raise Unreachable(f"The node '{node}' cannot be reached by SSH: {_last_line(result.stderr)}.")
            result.stderr = said
        return result

    def relay(self, node: str, line: str, out: Callable[[bytes], None], err: Callable[[bytes], None],
              timeout: float) -> int:
        """Run a line of shell on a node, passing its output on as it comes, and return its exit code.

        Raises Unreachable if the node cannot be reached, CommandError if it takes longer than `timeout` seconds.
        """
        code = relay(self.command(node, line), out, err, timeout)
        if code == _CONNECTION_FAILED:
            self.run(node, "true", timeout)  # Raises Unreachable, unless 255 was the line's own exit code.
        return code

    def copy(self, sources: Sequence[str], target: str, *, recursive: bool) -> None:
        """Copy files by scp; `sources` and `target` are its arguments. Raises LabError with scp's messages."""
        result = run(["scp", "-q", "-F", self._config, "-3", *(["-r"] if recursive else []), "--", *sources, target],
                     check=False)
        if result.returncode:
            said = [line.removeprefix("scp: ") for line in result.stderr.splitlines() if line.strip()]
            directory = any("not a regular file" in line or "Is a directory" in line for line in said)
            raise LabError("\n".join(["Not everything could be copied:", *(said or ["scp gives no reason"])]),
                           hint="'-r' copies directories with all that is in them." if directory else "")

    def do(self, node: str, script: str, timeout: float, failure: str) -> str:
        """Run a script that has to succeed, and return its output.

        Raises Unreachable as `run` does, and LabError with the script's last line if it fails; both messages begin with
        `failure`.
        """
        try:
            result = self.run(node, script, timeout)
        except Unreachable as error:
            raise Unreachable(f"{failure}: {error.message[0].lower()}{error.message[1:]}") from None
        if result.returncode:
            raise LabError(f"{failure}: {_last_line(result.stderr or result.stdout)}")
        return result.stdout

    def clock_ahead(self, node: str, timeout: float) -> float:
        """By how many seconds a node's clock is ahead of ours, according to the quickest of a few answers.

        The error is at most half the time that this answer took. Raises Unreachable as `run` does, LabError if the node
        does not tell its time.
        """
        answers = []
        for _ in range(_CLOCK_QUESTIONS):
            asked = time.time()
            said = self.do(node, "date +%s.%N", timeout, f"'{node}' does not say what time it is").strip()
            answered = time.time()
            if not _TIME.fullmatch(said):
                raise LabError(f"'{node}' does not say what time it is, but '{_last_line(said)}'.")
            answers.append((answered - asked, float(said) - (asked + answered) / 2))
            if answered - asked < _QUICK_SECONDS:
                break
        return min(answers)[1]

    def close(self, node: str) -> None:
        """Drop the shared connection to a node, for instance because it is stale after the node's restart."""
        self._drop_if_it_hangs(node)
        with suppress(CommandError):
            run(["ssh", "-F", self._config, "-O", "exit", node], check=False, timeout=_END_SECONDS)

    def _drop_if_it_hangs(self, node: str) -> None:
        """End a shared connection whose process does not answer; ssh would wait for it for ever."""
        control = self._control(node)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_GREETING_SECONDS)
            try:
                connection.connect(str(control))
                connection.recv(1)
            except (TimeoutError, BlockingIOError):
                for process in proc.ours(lambda words: words[0] == f"ssh: {control} [mux]"):
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
                control.unlink(missing_ok=True)
            except OSError:
                return  # There is no shared connection.


def end_masters(directory: Path) -> None:
    """End the shared connections whose sockets are in a directory, also those that hang."""
    proc.end(lambda: proc.ours(lambda words: words[0].startswith(f"ssh: {directory}/")), _END_SECONDS)


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["no reason given"])[-1][:_LINE]
