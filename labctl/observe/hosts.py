"""A lab's nodes as testinfra hosts, which are asked over labctl's own SSH."""

from typing import Any

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

from labctl.labs.lab import Lab

ASK_SECONDS = 60
"""For a node to run a command; several times that under emulation."""


def host(lab: Lab, node: str) -> Host:
    """A node as a testinfra host; a command raises Unreachable where the node does not answer in time."""
    return Host(_Backend(lab, node))


class _Backend(BaseBackend):  # type: ignore[misc]
    """Runs commands on a node.

    testinfra's own backend for SSH has no deadline, takes a node that cannot be reached for a bug, and needs paths that
    are ASCII.
    """

    NAME = "labctl"

    def __init__(self, lab: Lab, node: str) -> None:
        super().__init__(node)
        self._lab = lab

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        """Run a shell command with quoted arguments; see testinfra."""
        script = self.get_command(command, *args)
        # The shell reads the script from its standard input, of which the command must not take any.
        result = self._lab.ssh.run(self.hostname, f"{{ {script}\n}} </dev/null", ASK_SECONDS * self._lab.patience)
        return self.result(result.returncode, script.encode(), result.stdout, result.stderr)
