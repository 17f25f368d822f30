"""Run things on a lab's nodes."""

import re
import subprocess
import time
from pathlib import Path

from labctl.base import proc
from labctl.base.errors import LabError, Unreachable
from labctl.base.process import CommandError, run

_CONNECTION_FAILED = 255
_TIME = re.compile(r"\d{1,12}\.\d{1,9}")
_END_SECONDS = 5
_CLOCK_QUESTIONS = 4
_QUICK_SECONDS = 0.25
"""An answer to the question what time it is that is good enough, and the next question is not needed."""


class Ssh:
    """The nodes of one ssh_config."""

    def __init__(self, config: Path) -> None:
        self._config = config

    def command(self, node: str, *words: str, terminal: bool = False) -> list[str]:
        """The ssh command line that runs `words` on the node, or a login shell."""
        return ["ssh", "-F", str(self._config), *(["-t"] if terminal else []), node, *(["--", *words] if words else [])]

    def run(self, node: str, script: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a shell script on a node. Raises Unreachable if it cannot be reached within `timeout` seconds."""
        try:
            result = run(self.command(node, "sh", "-s"), stdin=script, check=False, timeout=timeout)
        except CommandError as error:
            raise Unreachable(f"The node '{node}' did not answer within {timeout:.0f} s.") from error
        if result.returncode == _CONNECTION_FAILED:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Unreachable(f"The node '{node}' cannot be reached by SSH: {reason}.")
        return result

    def do(self, node: str, script: str, timeout: float, failure: str) -> str:
        """Run a script that has to succeed, and return what it printed.

        Raises Unreachable where `run` does, LabError with the script's last line otherwise, both after `failure`.
        """
        try:
            result = self.run(node, script, timeout)
        except Unreachable as error:
            raise Unreachable(f"{failure}: {error.message[0].lower()}{error.message[1:]}") from None
        if result.returncode:
            said = (result.stderr or result.stdout).strip().splitlines()
            raise LabError(f"{failure}: {said[-1] if said else 'no output'}")
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
                raise LabError(f"'{node}' does not say what time it is, but '{said}'.")
            answers.append((answered - asked, float(said) - (asked + answered) / 2))
            if answered - asked < _QUICK_SECONDS:
                break
        return min(answers)[1]

    def close(self, node: str) -> None:
        """Drop the shared connection to a node, which is stale once the node was restarted."""
        run(["ssh", "-F", self._config, "-O", "exit", node], check=False)


def end_masters(directory: Path) -> None:
    """End the shared connections that have their sockets in a directory, also those that hang."""
    proc.end(lambda: proc.ours(lambda words: words[0].startswith(f"ssh: {directory}/")), _END_SECONDS)
