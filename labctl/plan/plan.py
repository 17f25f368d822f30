"""The plan: everything about a lab, worked out before anything is done. Pure and deterministic."""

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from pydantic import computed_field

from labctl.base.errors import LabError
from labctl.base.suggest import did_you_mean
from labctl.base.types import Model
from labctl.language import impair
from labctl.language.impair import Line, in_series
from labctl.language.services import Frontend, Placement
from labctl.language.topology import Topology
from labctl.plan import guests
from labctl.plan.guests import Guest
from labctl.plan.steps import Step, render

_NAMESPACE = uuid.UUID("8441f7da-9e27-41e3-8b69-fba87e713a41")


class Interface(Model):
    """A network interface of a node."""

    name: str
    network: str
    mac: str
    address: IPv4Address
    prefix: int


class PlannedNetwork(Model):
    """A segment of the lab."""

    name: str
    bridge: str
    subnet: IPv4Network
    host: IPv4Address | None


class PlannedNode(Model):
    """A machine of the lab."""

    name: str
    memory: int
    """MiB"""
    cpus: int
    client: bool
    interfaces: list[Interface]
    steps: list[Step]

    def interface_to(self, address: IPv4Address) -> Interface:
        """The interface on the segment of `address`. Raises StopIteration if there is none."""
        return next(interface for interface in self.interfaces
                    if address in IPv4Network(f"{interface.address}/{interface.prefix}", strict=False))

    @property
    def digest(self) -> str:
        """SHA-256 over all of the node."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def step(self, name: str) -> Step:
        """The step called `name`. Raises LabError if there is none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise LabError(f"'{self.name}' has no step called '{name}'.",
                       hint=did_you_mean(name, [step.name for step in self.steps]))

    @property
    def units(self) -> list[str]:
        """The units that have to be active once the node is configured."""
        return list(dict.fromkeys(unit for step in self.steps for unit in step.units))


class Plan(Model):
    """A lab: a topology under a name, with a guest, and all that follows from them."""

    version: Literal[1] = 1
    lab: str
    guest: Guest
    topology: Topology
    networks: list[PlannedNetwork]
    nodes: list[PlannedNode]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def digest(self) -> str:
        """SHA-256 over all of the plan."""
        return hashlib.sha256(self.model_dump_json(exclude={"digest"}).encode()).hexdigest()

    def node(self, name: str) -> PlannedNode:
        """The node called `name`. Raises LabError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(f"The lab '{self.lab}' has no node called '{name}'.",
                       hint=did_you_mean(name, [node.name for node in self.nodes]))

    def steps_of(self, service: str) -> list[tuple[PlannedNode, Step]]:
        """All steps of a service, in order. Raises LabError if there is no such service.

        A step that several services share belongs to the first of them.
        """
        if service not in self.topology.services:
            raise LabError(f"The lab '{self.lab}' has no service called '{service}'.",
                           hint=did_you_mean(service, self.topology.services))
        return [(node, step) for node in self.nodes for step in node.steps if step.service == service]

    def access(self, node: PlannedNode) -> Interface:
        """Where the physical machine reaches a node: the interface on its first network with a host address."""
        reachable = {network.name for network in self.networks if network.host}
        return next(interface for interface in node.interfaces if interface.network in reachable)

    def access_address(self, node: PlannedNode) -> IPv4Address:
        """The address at which the physical machine reaches a node."""
        return self.access(node).address

    def clients(self) -> list[PlannedNode]:
        """The nodes that checks run from."""
        return [node for node in self.nodes if node.client]

    def frontends(self) -> list[Frontend]:
        """The frontends that have to answer before the lab counts as serving."""
        return [frontend for service in self.topology.services.values()
                for frontend in service.frontends(self.topology.services, self.guest.keepalived)]


def make(topology: Topology, lab: str, guest: Guest) -> Plan:
    """Work out the plan of `topology` as the lab called `lab`, with `guest` on every node.

    Raises LabError if the guest cannot run one of the services.
    """
    _refuse_what_the_guest_lacks(topology, guest)
    placements = _placements(topology)
    clients = topology.clients()
    return Plan(
        lab=lab,
        # The origin of an image, and what doctor asks about it, change nothing in a lab.
        guest=guest.model_copy(update={"sources": [], "packages": "", "isos": {}, "lacks": {}, "versions": {}}),
        topology=topology,
        networks=[
            PlannedNetwork(name=name, bridge=f"lab{position}", subnet=network.subnet, host=network.host)
            for position, (name, network) in enumerate(topology.networks.items())
        ],
        nodes=[
            PlannedNode(
                name=name,
                memory=node.memory or guest.memory,
                cpus=node.cpus,
                client=name in clients,
                interfaces=[
                    Interface(name=topology.interface(name, network), network=network,
                              mac=_mac(lab, name, network), address=address,
                              prefix=topology.networks[network].subnet.prefixlen)
                    for network, address in node.addresses.items()
                ],
                steps=_steps([pair for pair in placements if pair[1].node == name], guest, lab),
            )
            for name, node in topology.nodes.items()
        ],
    )


def _refuse_what_the_guest_lacks(topology: Topology, guest: Guest) -> None:
    types = {name: service.type for name, service in topology.services.items()}
    problems = [f"The service '{name}' cannot run on {guest.title}: {guest.lacks[kind]}."
                for name, kind in types.items() if kind in guest.lacks]
    if problems:
        able = [f"'--guest {name}'" for name in guests.names() if not guests.load(name).lacks.keys() & types.values()]
        raise LabError("\n".join(problems), hint=f"{' or '.join(able)} can.")


def _placements(topology: Topology) -> list[tuple[str | None, Placement]]:
    return [*((None, placement) for placement in _base(topology)),
            *((name, placement)
              for name, service in topology.services.items()
              for placement in service.placements(topology, name, topology.services))]


def _base(topology: Topology) -> Iterator[Placement]:
    hosts = [{"name": name, "address": str(next(iter(node.addresses.values())))}
             for name, node in topology.nodes.items()]
    for name in topology.nodes:
        yield Placement(name, "base/hosts", {"hosts": hosts})
        yield Placement(name, "base/packages")
        lines = [(topology.interface(name, network), topology.networks[network]) for network in
                 topology.nodes[name].addresses if topology.networks[network].impair]
        if lines:
            yield Placement(name, "base/impair", {
                "impair": _scripts((each, network.host, in_series([network.impair] if network.impair else []))
                                   for each, network in lines),
                "repair": _scripts((each, network.host, Line()) for each, network in lines)})


def _scripts(lines: Iterable[tuple[str, IPv4Address | None, Line]]) -> str:
    """What makes interfaces send on lines like these."""
    return "\n".join(impair.script(interface, host, sent) for interface, host, sent in lines)


def _steps(placements: list[tuple[str | None, Placement]], guest: Guest, lab: str) -> list[Step]:
    """Render one node's steps. Services share identical steps; others of one name get the service's name."""
    unique: list[tuple[str | None, Placement]] = []
    for service, placement in placements:
        if not any(placement == other for _, other in unique):
            unique.append((service, placement))
    names = [placement.step.rpartition("/")[2] for _, placement in unique]
    secrets = uuid.uuid5(_NAMESPACE, lab)
    return [render(placement, name if names.count(name) == 1 else f"{name}.{service}", service, guest,
                   secret=uuid.uuid5(secrets, f"secret/{service}").hex)
            for (service, placement), name in zip(unique, names, strict=True)]


def _mac(lab: str, node: str, network: str) -> str:
    """A MAC address in QEMU's range, derived from the names of lab, node and network."""
    digest = hashlib.sha256(f"{lab}/{node}/{network}".encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])
