"""The kinds of faults: how each is made, and how it heals.

Those inside a guest are shell scripts in cloud-init/faults. The others do something to a machine, or to the room around
it; they look at all faults in force and bring the room to what these say, so that any of them may go first.
"""

import shlex
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from pydantic import Field
from typing_extensions import override

from labctl.base.errors import LabError
from labctl.base.progress import Progress
from labctl.base.resources import FAULTS
from labctl.base.types import Model
from labctl.base.yamlfile import read_file
from labctl.labs.journal import Fault, Wanted
from labctl.labs.lab import Lab
from labctl.language import impair
from labctl.language.impair import Impair, in_series
from labctl.machines.host import Ability
from labctl.machines.memory.wake import put_forward
from labctl.plan.plan import Interface, PlannedNode
from labctl.plan.steps import Step

_SECONDS = 60
"""For a node to take a command, without emulation."""
_ANSWER_SECONDS = 3
_ANNOUNCE_SECONDS = 2
"""Neighbours find out by themselves after a while."""
_SILENCED = {"crash": "is off", "freeze": "stands still"}
"""What a node does of which nothing more can be broken."""


class Kind(ABC):
    """One kind of fault."""

    in_guest = False
    """It is made, and heals, over SSH."""
    ends_at_boot = False
    """A node that boots has it no more, and does not get it again."""
    survives_boot = False
    """A node that boots has it still."""

    def look(self, lab: Lab, wanted: Wanted, others: Sequence[Fault]) -> None:
        """Raise LabError for a fault that cannot be made now, before it is written down."""
        for other in others:
            if other.kind in _SILENCED and set(other.nodes) & set(wanted.nodes):
                raise LabError(f"'{other.nodes[0]}' {_SILENCED[other.kind]}: '{other.what}' is in force.",
                               hint=f"'labctl heal {other.id}' ends it.")
        states = lab.states()
        for name in wanted.nodes:
            lab.must_run(lab.plan.node(name), states)

    @abstractmethod
    def do(self, lab: Lab, fault: Fault, in_force: Sequence[Fault], *, again: bool = False) -> None:
        """Make the fault, or make sure that it is there. Raises LabError."""

    @abstractmethod
    def heal(self, lab: Lab, fault: Fault, left: Sequence[Fault], progress: Progress) -> None:
        """Put it back, but for what others that are `left` have broken. Raises LabError."""


class Crash(Kind):
    """A machine's power is cut. It boots when that heals."""

    ends_at_boot = True

    @override
    def look(self, lab: Lab, wanted: Wanted, others: Sequence[Fault]) -> None:
        """A machine that stands still can lose its power as well."""
        node = _node(lab, wanted)
        states = lab.states()
        if states[node.name] != "paused":
            lab.must_run(node, states)

    @override
    def do(self, lab: Lab, fault: Fault, in_force: Sequence[Fault], *, again: bool = False) -> None:
        """Pull the plug."""
        lab.crash(_node(lab, fault))

    @override
    def heal(self, lab: Lab, fault: Fault, left: Sequence[Fault], progress: Progress) -> None:
        """Switch the machine on, unless somebody has done so, and wait until it is configured."""
        node = _node(lab, fault)
        gates = lab.gates(progress)
        gates.turn_the_page([node])
        self.switch_on(lab, fault)
        gates.wait_for_nodes([node])

    def switch_on(self, lab: Lab, fault: Fault) -> None:
        """Switch the machine on, unless it is."""
        node = _node(lab, fault)
        if lab.states()[node.name] != "running":
            lab.start(node)


class Freeze(Kind):
    """A machine stands still. For others it is silent, but its port is there, and so is its address in their tables."""

    ends_at_boot = True

    @override
    def do(self, lab: Lab, fault: Fault, in_force: Sequence[Fault], *, again: bool = False) -> None:
        """Hold the machine."""
        lab.ssh.close(_node(lab, fault).name)  # It would hang as well.
        lab.provider.suspend(_node(lab, fault).name)

    @override
    def heal(self, lab: Lab, fault: Fault, left: Sequence[Fault], progress: Progress) -> None:
        """Let it go on, if it is still there."""
        lab.provider.resume(_node(lab, fault).name)


class Unplug(Kind):
    """The cable between a node and a network is pulled."""

    @override
    def look(self, lab: Lab, wanted: Wanted, others: Sequence[Fault]) -> None:
        """A cable can be pulled once."""
        super().look(lab, wanted, others)
        for network in wanted.options["networks"]:
            if network in unplugged(wanted.nodes[0], others):
                raise LabError(f"'{wanted.nodes[0]}' is unplugged from '{network}' already.")

    @override
    def do(self, lab: Lab, fault: Fault, in_force: Sequence[Fault], *, again: bool = False) -> None:
        """Pull the cables that nobody has pulled yet."""
        if lab.plan.access(_node(lab, fault)).network in fault.options["networks"]:
            lab.ssh.close(fault.nodes[0])
        self._set(lab, fault, in_force)

    @override
    def heal(self, lab: Lab, fault: Fault, left: Sequence[Fault], progress: Progress) -> None:
        """Plug in the cables that nobody else has pulled."""
        if fault.nodes[0] in lab.provider.states():
            self._set(lab, fault, left)

    def _set(self, lab: Lab, fault: Fault, in_force: Sequence[Fault]) -> None:
        node = _node(lab, fault)
        without = unplugged(node.name, in_force)
        for interface in node.interfaces:
            if interface.network in fault.options["networks"]:
                lab.provider.set_link(node.name, interface.mac, up=interface.network not in without)


class OverSsh(Kind):
    """A fault inside a guest, made over SSH."""

    in_guest = True

    @override
    def look(self, lab: Lab, wanted: Wanted, others: Sequence[Fault]) -> None:
        """The node has to be there for labctl."""
        super().look(lab, wanted, others)
        node = _node(lab, wanted)
        for other in others:
            if lab.plan.access(node).network in unplugged(node.name, [other]):
                raise LabError(f"'{node.name}' cannot be reached: it is unplugged.",
                               hint=f"'labctl heal {other.id}' plugs it in.")


class Room(Kind):
    """The room keeps frames from passing between nodes, which see nothing of it. It does so whatever they do."""

    survives_boot = True

    @override
    def look(self, lab: Lab, wanted: Wanted, others: Sequence[Fault]) -> None:
        """It has to be a room of our own."""
        lab.host.must(Ability.filter)

    @override
    def do(self, lab: Lab, fault: Fault, in_force: Sequence[Fault], *, again: bool = False) -> None:
        """Have the room do what all faults say."""
        lab.filter(in_force)

    @override
    def heal(self, lab: Lab, fault: Fault, left: Sequence[Fault], progress: Progress) -> None:
        """Have the room do what is left of them."""
        lab.filter(left)


class Script(Model):
    """A fault inside a guest, as it is written in its YAML file."""

    title: str
    why: str
    do: str
    """Run again, it makes sure that the fault is there; `$again` is empty the first time."""
    heal: str
    """Puts it back, also where the fault is not there any more."""
    lasts: bool = True
    """It is a state, not an event: what has happened once is not made to happen again."""
    survives_boot: bool = Field(default=False)


class InGuest(OverSsh):
    """A fault that a shell script makes on a node."""

    def __init__(self, file: Path) -> None:
        self.script = Script.model_validate(read_file(file).data)
        self.ends_at_boot = not self.script.lasts
        self.survives_boot = self.script.survives_boot

    @override
    def do(self, lab: Lab, fault: Fault, in_force: Sequence[Fault], *, again: bool = False) -> None:
        """Run the script."""
        run(lab, fault.nodes[0], self.text(fault, self.script.do, again=again),
            f"The fault '{fault.what}' could not be made")

    @override
    def heal(self, lab: Lab, fault: Fault, left: Sequence[Fault], progress: Progress) -> None:
        """Put it back, and make sure that what is left on the node is still there: a program may have started."""
        scripts = [self.text(fault, self.script.heal), *again_scripts(lab, fault.nodes[0], left)]
        run(lab, fault.nodes[0], "\n".join(scripts), f"The fault '{fault.what}' could not be healed")

    def text(self, fault: Fault, script: str, *, again: bool = False) -> str:
        """The script with what it has to know."""
        values = {"id": fault.id, "again": "yes" if again else "", **fault.options}
        lines = [f"{name}={shlex.quote(str(value))}" for name, value in values.items()]
        return "\n".join(["(", "set -e", *lines, script, ") || exit"])


class Duplicate(InGuest):
    """A node takes an address that another one has. labctl itself still finds the other one."""

    @override
    def look(self, lab: Lab, wanted: Wanted, others: Sequence[Fault]) -> None:
        """Where labctl could be misled, there has to be a room of our own."""
        super().look(lab, wanted, others)
        if self._misled(lab, wanted):
            lab.host.must(Ability.filter)

    @override
    def do(self, lab: Lab, fault: Fault, in_force: Sequence[Fault], *, again: bool = False) -> None:
        """Take the address, and say so to all."""
        for bridge, interface in self._misled(lab, fault):
            lab.host.pin(bridge, interface.address, interface.mac)
        super().do(lab, fault, in_force, again=again)

    @override
    def heal(self, lab: Lab, fault: Fault, left: Sequence[Fault], progress: Progress) -> None:
        """Take the address away, and have those who should have it tell their neighbours."""
        super().heal(lab, fault, left, progress)
        for bridge, interface in self._misled(lab, fault):
            if not any(other.kind == "duplicate" and other.options["address"] == str(interface.address)
                       for other in left):
                lab.host.pin(bridge, interface.address, None)
        address = IPv4Address(fault.options["address"])
        owners = {name for frontend in lab.plan.frontends() for name in frontend.holders
                  if address in (frontend.address, *frontend.together)} | {
            node.name for node in lab.plan.nodes for interface in node.interfaces if interface.address == address}
        for node in lab.plan.nodes:
            if node.name in owners - set(fault.nodes):
                device = node.interface_to(address).name
                with suppress(LabError):  # It may be off, or not hold the address just now.
                    run(lab, node.name, f"ip -o -4 address show dev {device} to {address} | grep -q . && "
                                        f"{{ arping -q -U -c 2 -w 2 -I {device} {address} >/dev/null 2>&1 & }}", "",
                        _ANNOUNCE_SECONDS)


    def _misled(self, lab: Lab, wanted: Wanted) -> list[tuple[str, Interface]]:
        """The node that labctl reaches at the address: its bridge, and its interface there."""
        bridges = {network.name: network.bridge for network in lab.plan.networks}
        ways_in = [lab.plan.access(node) for node in lab.plan.nodes]
        return [(bridges[interface.network], interface) for interface in ways_in
                if str(interface.address) == wanted.options["address"]]


class Skew(OverSsh):
    """A node's clock is wrong."""

    @override
    def do(self, lab: Lab, fault: Fault, in_force: Sequence[Fault], *, again: bool = False) -> None:
        """Put the clock forward or back."""
        self._set(lab, fault.nodes[0], in_force)

    @override
    def heal(self, lab: Lab, fault: Fault, left: Sequence[Fault], progress: Progress) -> None:
        """Set it right, whoever has moved it meanwhile, but for what is left."""
        self._set(lab, fault.nodes[0], left)

    def _set(self, lab: Lab, node: str, in_force: Sequence[Fault]) -> None:
        wrong = sum(fault.options["seconds"] for fault in in_force
                    if fault.kind == "skew" and fault.nodes == [node] and not fault.over)
        ahead = lab.ssh.clock_ahead(node, _ANSWER_SECONDS * lab.patience)
        run(lab, node, f"{put_forward(wrong - ahead)} >/dev/null", f"The clock of '{node}' could not be set")


class Impaired(OverSsh):
    """A node's lines are bad, both ways: what the topology says of the network, and one fault after the other."""

    @override
    def do(self, lab: Lab, fault: Fault, in_force: Sequence[Fault], *, again: bool = False) -> None:
        """Make the lines as bad as all of them say."""
        run(lab, fault.nodes[0], self.text(lab, fault, in_force), f"The fault '{fault.what}' could not be made")

    @override
    def heal(self, lab: Lab, fault: Fault, left: Sequence[Fault], progress: Progress) -> None:
        """Make them as bad as what is left says."""
        run(lab, fault.nodes[0], self.text(lab, fault, left), f"The fault '{fault.what}' could not be healed")

    def text(self, lab: Lab, fault: Fault, in_force: Sequence[Fault]) -> str:
        """A script for the node's lines to the fault's networks."""
        node = _node(lab, fault)
        step = next((step for step in node.steps if step.kind == "base/impair"), None)
        scripts = []
        for interface in node.interfaces:
            if interface.network not in fault.options["networks"]:
                continue
            ours = [other for other in in_force if other.kind == "impair" and other.nodes == fault.nodes
                    and interface.network in other.options["networks"] and not other.over]
            always = lab.plan.topology.networks[interface.network].impair
            host = lab.plan.topology.networks[interface.network].host
            with_it, without = (_line_script(interface.name, host, base, ours) for base in (always, None))
            scripts.append(f"if [ -e {step.marker} ]; then\n{with_it}\nelse\n{without}\nfi" if step and always else
                           without)
        return "\n".join(["(", "set -e", *scripts, ") || exit"])


def _line_script(interface: str, host: IPv4Address | None, always: Impair | None, faults: Sequence[Fault]) -> str:
    last = max((position for position, fault in enumerate(faults) if fault.options["only"]), default=-1)
    parts = [Impair(**fault.options["impair"]) for fault in faults[max(last, 0):]]
    sent = [always] if always and last < 0 else []
    return impair.script(interface, host, in_series([*sent, *parts]), in_series(parts))


class Undo(OverSsh):
    """A step is undone: a mistake in the configuration."""

    survives_boot = True

    @override
    def look(self, lab: Lab, wanted: Wanted, others: Sequence[Fault]) -> None:
        """What is not done cannot be undone."""
        super().look(lab, wanted, others)
        node, step = self._step(lab, wanted)
        states = {each.name: "running" if each == node else "off" for each in lab.plan.nodes}
        if step.name not in (lab.applied(states)[node.name] or {step.name}):
            raise LabError(f"The step '{node.name}/{step.name}' is undone already.",
                           hint=f"'labctl apply {node.name}/{step.name}' does it.")

    @override
    def do(self, lab: Lab, fault: Fault, in_force: Sequence[Fault], *, again: bool = False) -> None:
        """Take the step back, and nothing that others have broken."""
        lab.undo(*self._step(lab, fault))
        self._hold(lab, fault, in_force)

    @override
    def heal(self, lab: Lab, fault: Fault, left: Sequence[Fault], progress: Progress) -> None:
        """Do the step, which may start what others have stopped."""
        lab.apply(*self._step(lab, fault))
        self._hold(lab, fault, left)

    def _hold(self, lab: Lab, fault: Fault, in_force: Sequence[Fault]) -> None:
        node = fault.nodes[0]
        scripts = again_scripts(lab, node, in_force)
        if scripts:
            run(lab, node, "\n".join(scripts), f"Not all that is broken on '{node}' is still so")

    def _step(self, lab: Lab, wanted: Wanted) -> tuple[PlannedNode, Step]:
        node = _node(lab, wanted)
        return node, node.step(wanted.options["step"])


class Command(Kind):
    """A command of somebody's own breaks something, and another one puts it back."""

    in_guest = True
    survives_boot = True

    @override
    def look(self, lab: Lab, wanted: Wanted, others: Sequence[Fault]) -> None:
        """Whether it can be made, it shows itself."""

    @override
    def do(self, lab: Lab, fault: Fault, in_force: Sequence[Fault], *, again: bool = False) -> None:
        """Run the command."""
        run(lab, fault.nodes[0], fault.options["do"], f"'{fault.options['do']}' failed on '{fault.nodes[0]}'")

    @override
    def heal(self, lab: Lab, fault: Fault, left: Sequence[Fault], progress: Progress) -> None:
        """Run the other one."""
        run(lab, fault.nodes[0], fault.options["heal"], f"'{fault.options['heal']}' failed on '{fault.nodes[0]}'")


KINDS: dict[str, Kind] = {
    "crash": Crash(), "freeze": Freeze(), "unplug": Unplug(), "cut": Room(), "block": Room(), "command": Command(),
    "skew": Skew(), "undo": Undo(), "impair": Impaired(), "duplicate": Duplicate(FAULTS / "duplicate.yaml"),
    **{name: InGuest(FAULTS / f"{name}.yaml") for name in ("stop", "kill", "hang", "fill")},
}


def again_scripts(lab: Lab, node: str, in_force: Sequence[Fault]) -> list[str]:
    """Scripts that make sure that what is broken inside a node is still so, whatever was started there meanwhile."""
    scripts = []
    for fault in in_force:
        match KINDS[fault.kind]:
            case InGuest() as kind if fault.nodes == [node] and not fault.over and kind.script.lasts:
                scripts.append(kind.text(fault, kind.script.do, again=True))
            case Impaired() as kind if fault.nodes == [node] and not fault.over:
                scripts.append(kind.text(lab, fault, in_force))
            case _:
                pass
    return scripts


def unplugged(node: str, in_force: Sequence[Fault]) -> set[str]:
    """The networks whose cables to a node are pulled."""
    return {network for fault in in_force if fault.kind == "unplug" and fault.nodes == [node]
            for network in fault.options["networks"]}


def run(lab: Lab, node: str, script: str, failure: str, seconds: float | None = None) -> None:
    """Have a node run a script that has to succeed. Raises LabError."""
    # The shell reads the script from its standard input, of which the commands must not take any.
    lab.ssh.do(node, f"{{ {script}\n}} </dev/null", seconds or _SECONDS * lab.patience, failure)


def _node(lab: Lab, fault: Wanted) -> PlannedNode:
    return lab.plan.node(fault.nodes[0])
