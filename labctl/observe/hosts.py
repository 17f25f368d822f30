"""A lab's nodes as testinfra hosts, reached by labctl's own SSH."""

from typing import Any

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

from labctl.labs.lab import Lab

ASK_SECONDS = 60
"""For a node to run a command; several times that under emulation."""


def host(lab: Lab, node: str) -> Host:
    """A node as a testinfra host; its commands raise Unreachable if the node does not answer in time."""
    return Host(_Backend(lab, node))


class _Backend(BaseBackend):  # type: ignore[misc]
    """Runs commands on a node.

    testinfra's own SSH backend has no deadline, treats an unreachable node as a bug, and needs ASCII paths.
    """

    NAME = "labctl"

    def __init__(self, lab: Lab, node: str) -> None:
        super().__init__(node)
        self._lab = lab

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        """Run a shell command with quoted arguments, as testinfra's BaseBackend does."""
        script = self.get_command(command, *args)
        # The shell reads the script from its standard input, which the command must not consume.
        result = self._lab.ssh.run(self.hostname, f"{{ {script}\n}} </dev/null", ASK_SECONDS * self._lab.patience)
        return self.result(result.returncode, script.encode(), result.stdout, result.stderr)
