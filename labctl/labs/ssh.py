"""Run things on a lab's nodes."""

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
"""What runs a script over there; it tells the script's exit code from ssh's own, where they are the same."""
_TIME = re.compile(r"\d{1,12}\.\d{1,9}")
_GREETING_SECONDS = 2
"""For the process that keeps a shared connection to greet whoever comes to its socket, which it does at once."""
_END_SECONDS = 5
"""For it to end."""
_LINE = 300
"""Characters of what a guest says that go into a message."""
_CLOCK_QUESTIONS = 4
_QUICK_SECONDS = 0.25
"""An answer to the question what time it is that is good enough, and the next question is not needed."""


class Ssh:
    """The nodes of one ssh_config."""

    def __init__(self, config: Path, control: Callable[[str], Path]) -> None:
        """`control` is where the socket of a node's shared connection is."""
        self._config = config
        self._control = control

    def command(self, node: str, line: str = "", *, terminal: bool = False) -> list[str]:
        """The ssh command line that runs a line of shell on the node, or a login shell."""
        self._drop_if_it_hangs(node)
        return ["ssh", "-F", str(self._config), *(["-t"] if terminal else []), node, *(["--", line] if line else [])]

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
        """Run a line of shell on a node, hand on what it prints while it prints it, and return its exit code.

        Raises Unreachable if the node cannot be reached, CommandError for what takes longer than `timeout` seconds.
        """
        code = relay(self.command(node, line), out, err, timeout)
        if code == _CONNECTION_FAILED:
            self.run(node, "true", timeout)  # The line's own exit code may be the same.
        return code

    def copy(self, sources: Sequence[str], target: str, *, recursive: bool) -> None:
        """Copy files as scp does, whose words `sources` and `target` are. Raises LabError with what it says."""
        result = run(["scp", "-q", "-F", self._config, "-3", *(["-r"] if recursive else []), "--", *sources, target],
                     check=False)
        if result.returncode:
            said = [line.removeprefix("scp: ") for line in result.stderr.splitlines() if line.strip()]
            directory = any("not a regular file" in line or "Is a directory" in line for line in said)
            raise LabError("\n".join(["Not everything could be copied:", *(said or ["scp gives no reason"])]),
                           hint="'-r' copies directories with all that is in them." if directory else "")

    def do(self, node: str, script: str, timeout: float, failure: str) -> str:
        """Run a script that has to succeed, and return what it printed.

        Raises Unreachable where `run` does, LabError with the script's last line otherwise, both after `failure`.
        """
        try:
            result = self.run(node, script, timeout)
        except Unreachable as error:
            raise Unreachable(f"{failure}: {error.message[0].lower()}{error.message[1:]}") from None
        if result.returncode:
            raise LabError(f"{failure}: {_last_line(result.stderr or result.stdout)}")
        return result.stdout

    def clock_ahead(self, node: str, timeout: float) -> float:
        """By how many seconds a node's clock is ahead of ours, by the quickest of a few answers.

        It is wrong by half of what that took, at most. Raises Unreachable as `run` does, LabError for a node that does
        not say.
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
        """Drop the shared connection to a node, which is stale once the node was restarted."""
        self._drop_if_it_hangs(node)
        with suppress(CommandError):
            run(["ssh", "-F", self._config, "-O", "exit", node], check=False, timeout=_END_SECONDS)

    def _drop_if_it_hangs(self, node: str) -> None:
        """End a shared connection whose process does not answer any more; ssh would wait for it for ever."""
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
    """End the shared connections that have their sockets in a directory, also those that hang."""
    proc.end(lambda: proc.ours(lambda words: words[0].startswith(f"ssh: {directory}/")), _END_SECONDS)


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["no reason given"])[-1][:_LINE]
