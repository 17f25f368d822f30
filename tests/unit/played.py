"""A lab in which things are broken and put back, without machines."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal, cast

from samples import NAT, plan_of

from labctl.base.errors import Unreachable
from labctl.labs.journal import drops
from labctl.labs.lab import Lab
from labctl.labs.ssh import Ssh
from labctl.machines.existing_libvirt import ExistingLibvirt
from labctl.machines.filters import _rule
from labctl.observe.faults.faults import Faults

if TYPE_CHECKING:
    from labctl.labs.journal import Fault
    from labctl.machines.host import Ability
    from labctl.plan.plan import PlannedNode

_ASSIGNMENT = re.compile(r"^(\w+)=(.*)$", re.MULTILINE)


class _PlayedSsh(Ssh):
    def __init__(self, lab: "Played") -> None:
        super().__init__(Path("ssh_config"), Path)
        self._lab = lab

    def run(self, node: str, script: str, timeout: float) -> CompletedProcess[str]:
        del timeout
        self._lab.must_answer(node)
        for part in re.findall(r"^\(\n(.*?)^\) \|\| exit", script.replace("{ (", "(", 1), re.DOTALL | re.MULTILINE):
            self._lab.obey(node, part)
        for verb, what in re.findall(r"(break|mend) (\w)", script):
            (self._lab.broken.add if verb == "break" else self._lab.broken.discard)(f"{node} {what}")
        return CompletedProcess([], 0, "", "")

    def close(self, node: str) -> None:
        """See Ssh."""


class Played:
    """A lab of which every node does what it is told, but those that are silent.

    What is broken in it can be looked at, each thing in words; what a boot puts back is gone after one.
    """

    def __init__(self, directory: Path) -> None:
        self.plan = plan_of(NAT)
        self.name = "lab"
        self.record = SimpleNamespace(id="id")
        self.directory = directory
        self.patience = 1.0
        self.ssh = _PlayedSsh(self)
        self.provider = self
        self.host = self
        self.private = True
        self.broken: set[str] = set()
        self.said: list[str] = []
        self.silent: set[str] = set()
        self.off: set[str] = set()

    # ---- Inside a node ------------------------------------------------------------------------------------

    def must_answer(self, node: str) -> None:
        """Raise Unreachable as SSH does."""
        cut_off = f"{node} {self.plan.access(self.plan.node(node)).network} unplugged" in self.broken
        if node in self.silent or cut_off or self.states()[node] != "running":
            raise Unreachable(f"The node '{node}' did not answer.")

    def obey(self, node: str, script: str) -> None:
        """Do what a script of a kind does."""
        values = dict(_ASSIGNMENT.findall(script))
        for command, what, word in (("systemctl stop", "units", "stopped"), ("pkill -STOP", "program", "hung")):
            if command in script:
                self.broken.add(f"{node} {values[what]} {word}")
        for command, what, word in (("systemctl start $units", "units", "stopped"), ("pkill -CONT", "program", "hung")):
            if command in script:
                self.broken.discard(f"{node} {values[what]} {word}")

    # ---- Lab ----------------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """See Lab."""
        return {node.name: "off" if f"{node.name} off" in self.broken or node.name in self.off else
                "paused" if f"{node.name} still" in self.broken else "running" for node in self.plan.nodes}

    def must_run(self, node: "PlannedNode", states: dict[str, str] | None = None) -> None:
        """See Lab."""
        Lab.must_run(cast("Lab", self), node, states)

    def crash(self, node: "PlannedNode") -> None:
        """See Lab."""
        self.broken = {each for each in self.broken if each.split()[0] != node.name} | {f"{node.name} off"}

    def start(self, node: "PlannedNode") -> None:
        """See Lab."""
        self.broken.discard(f"{node.name} off")

    def gates(self, _: object) -> object:
        """See Lab."""
        def wait_for_nodes(nodes: "Iterable[PlannedNode]") -> None:
            for node in nodes:
                self.must_answer(node.name)
                self.said.append(f"{node.name} there")

        return SimpleNamespace(wait_for_nodes=wait_for_nodes, wait_for_service=lambda: self.said.append("serves"),
                               turn_the_page=lambda _: None)

    def filter(self, in_force: "Sequence[Fault]") -> None:
        """See Lab."""
        self.broken = {each for each in self.broken if not each.startswith("lost: ")} | {
            f"lost: {_rule(drop)}" for drop in drops(self.plan, in_force)}

    def must(self, ability: "Ability") -> None:
        """See Host."""
        if not self.private:
            ExistingLibvirt("test:///default").must(ability)

    # ---- Provider -----------------------------------------------------------------------------------------

    def suspend(self, node: str) -> None:
        """See Provider."""
        self.broken.add(f"{node} still")

    def resume(self, node: str) -> None:
        """See Provider."""
        self.broken.discard(f"{node} still")

    def set_link(self, node: str, mac: str, *, up: bool) -> None:
        """See Provider."""
        network = next(each.network for each in self.plan.node(node).interfaces if each.mac == mac)
        (self.broken.discard if up else self.broken.add)(f"{node} {network} unplugged")


def faults_of(lab: Played, by: Literal["user", "check"] = "user") -> Faults:
    """The faults of a played lab."""
    return Faults(cast("Lab", lab), by)
