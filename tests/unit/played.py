"""A lab in which things are broken and put back, without machines."""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
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
    from labctl.plan.steps import Step

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
        for late in re.findall(r"date -us '(.*?) seconds'", script):
            self._lab.clocks[node] = round(self._lab.clocks.get(node, 0.0) + float(late), 3)
        for verb, what in re.findall(r"(break|mend) (\w)", script):
            (self._lab.broken.add if verb == "break" else self._lab.broken.discard)(f"{node} {what}")
        return CompletedProcess([], 0, "", "")

    def close(self, node: str) -> None:
        """See Ssh."""

    def clock_ahead(self, node: str, timeout: float) -> float:
        """See Ssh."""
        del timeout
        self._lab.must_answer(node)
        return self._lab.clocks.get(node, 0.0)


class Played:
    """A lab of which every node does what it is told, but those that are silent.

    What is broken in it can be looked at, each thing in words; what a boot puts back is gone after one.
    """

    def __init__(self, directory: Path) -> None:
        self.plan = plan_of(NAT)
        self.name = "lab"
        self.record = SimpleNamespace(id="id", exercise=False)
        self.directory = directory
        self.patience = 1.0
        self.ssh = _PlayedSsh(self)
        self.provider = self
        self.host = self
        self.private = True
        self.broken: set[str] = set()
        self.clocks: dict[str, float] = {}
        """By how many seconds those of nodes are ahead."""
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
        for do, heal, what, effect in (
                ("systemctl stop", "systemctl start $units", "units", "{} {} stopped"),
                ("pkill -STOP", "pkill -CONT", "program", "{} {} hung"),
                ("fallocate", "rm -rf /var/lib/labctl/fill", "id", "{}/disk full"),
                ("ip address replace", "ip address del", "address", "{} has {}")):
            if do in script:
                self.broken.add(effect.format(node, values[what]))
            elif heal in script:
                self.broken.discard(effect.format(node, values[what]))

        for interface in re.findall(r"^qdisc del dev (\w+) root", script, re.MULTILINE):
            self.broken = {each for each in self.broken if not each.startswith(f"{node} {interface} netem")}
            sent = re.findall(rf"^qdisc add dev {interface} parent 1:2 (netem .*)$", script, re.MULTILINE)
            assert re.findall(rf"^qdisc add dev ifb-{interface} root (netem .*)$", script, re.MULTILINE) == sent
            self.broken.update(f"{node} {interface} {emulated}" for emulated in sent)

    # ---- Lab ----------------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """See Lab."""
        return {node.name: "off" if f"{node.name} off" in self.broken or node.name in self.off else
                "paused" if f"{node.name} still" in self.broken else "running" for node in self.plan.nodes}

    def must_be_open(self) -> None:
        """See Lab."""

    def must_not_hang(self, nodes: "Sequence[PlannedNode]") -> None:
        """See Lab."""

    def must_run(self, node: "PlannedNode", states: dict[str, str] | None = None) -> None:
        """See Lab."""
        Lab.must_run(cast("Lab", self), node, states)

    def crash(self, node: "PlannedNode") -> None:
        """See Lab."""
        self.broken = {each for each in self.broken if each.split()[0] != node.name} | {f"{node.name} off"}
        self.clocks.pop(node.name, None)

    def start(self, node: "PlannedNode") -> None:
        """See Lab."""
        self.broken.discard(f"{node.name} off")

    def applied(self, states: dict[str, str]) -> dict[str, set[str] | None]:
        """See Lab."""
        return {node.name: {step.name for step in node.steps} - {
            each.split()[0].partition("/")[2] for each in self.broken if each.startswith(f"{node.name}/")}
            if states[node.name] == "running" else None for node in self.plan.nodes}

    def undo(self, node: "PlannedNode", step: "Step") -> None:
        """See Lab."""
        self.must_answer(node.name)
        self.broken.add(f"{node.name}/{step.name} undone")

    def apply(self, node: "PlannedNode", step: "Step") -> None:
        """See Lab."""
        self.must_answer(node.name)
        self.broken.discard(f"{node.name}/{step.name} undone")

    def pin(self, bridge: str, address: IPv4Address, mac: str | None) -> None:
        """See Host."""
        del bridge
        (self.broken.add if mac else self.broken.discard)(f"pinned: {address}")

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
