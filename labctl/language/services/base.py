"""The base of all service types, and rules that several of them share. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from labctl.base.suggest import did_you_mean
from labctl.base.types import Model
from labctl.base.yamlfile import Location
from labctl.language.site import Site


class Finding(NamedTuple):
    """Something wrong at a location relative to the service."""

    location: Location
    message: str
    needs_all: bool = False
    """Whether it holds only if every service in the file could be read."""


@dataclass(frozen=True)
class Placement:
    """A step (`ipvs/arp`: a file in cloud-init/steps) on a node, with the values its template needs."""

    node: str
    step: str
    values: Mapping[str, Any] = field(default_factory=dict)


class Wait(Model):
    """How long a backup waits before it takes an address, in advertisement intervals and skews."""

    intervals: int
    skews: int

    def seconds(self, interval: float, skew: float) -> float:
        """The wait in seconds; the skew is the extra time that a node of lower priority waits."""
        return self.intervals * interval + self.skews * skew


class Timing(Model):
    """How long elections of a guest's keepalived wait; its versions differ in this."""

    crash: Wait
    """After the holder fell silent."""
    crash_together: Wait
    """The same for instances that move together, in a sync group."""
    stop: Wait
    """After the holder announced that it leaves."""


@dataclass(frozen=True)
class Failover:
    """How an address moves from one of its holders to the next."""

    steps: Sequence[str]
    """The kinds of steps that make a node a holder."""
    unit: str
    """The systemd unit that takes part in the election; when it stops, its node gives the address up."""
    messages: str
    """How iptables matches the holders' messages to each other, such as `-p vrrp`."""
    crash_seconds: float
    """The longest time until another node takes over from one that fell silent."""
    stop_seconds: float
    """The same after the holder announced that it leaves."""
    work_seconds: float
    """How long the programs that move the address take in addition; several times that under emulation."""
    returns: bool
    """Whether the first holder gets the address back when it returns."""
    watch_seconds: float | None = None
    """The longest time until a holder whose own program does not answer begins to hand over; None where nobody asks
    it."""


@dataclass(frozen=True)
class Frontend:
    """An address and TCP port that clients use, and the nodes that may hold the address, first choice first."""

    address: IPv4Address
    port: int
    holders: Sequence[str]
    host: str | None = None
    """A name in the Host header that gets an answer; None if any does."""
    failover: Failover | None = None
    together: Sequence[IPv4Address] = ()
    """Addresses that have to be on the same node as this one."""


SSH_PORT = 22
"""sshd's port, on every node."""


class Service(Model):
    """The base of all service types; a subclass is one entry under `services:`."""

    @property
    def vips(self) -> Sequence[IPv4Address]:
        """The addresses that clients use, in addition to its nodes' own."""
        return ()

    @property
    def floating(self) -> Sequence[IPv4Address]:
        """All addresses that this service gives to nodes."""
        return self.vips

    def findings(self, site: Site, name: str, services: Mapping[str, "Service"]) -> Iterator[Finding]:
        """What is wrong with this service on its nodes and networks, and together with the other services."""
        raise NotImplementedError

    def placements(self, site: Site, name: str, services: Mapping[str, "Service"]) -> Iterator[Placement]:
        """The steps this service puts on nodes, in order."""
        raise NotImplementedError

    def ports_on(self, node: str) -> set[int]:  # noqa: ARG002
        """The TCP ports on which this service answers HTTP at the node's own addresses."""
        return set()

    def asks(self, name: str, services: Mapping[str, "Service"]) -> set[tuple[str, int]]:  # noqa: ARG002
        """The nodes and ports to which each of its nodes passes requests on."""
        return set()

    def passes_on(self) -> Mapping[str, float]:
        """The nodes that requests are passed on to, and the most seconds for which a dead one still gets some.

        It is infinite if nobody notices.
        """
        return {}

    def hosts(self) -> Sequence[str]:
        """The names in the Host header that it answers to; empty if it answers to any."""
        return ()

    def routers(self, site: Site, name: str, services: Mapping[str, "Service"]) -> Sequence[tuple[str, int]]:  # noqa: ARG002
        """The network and the id of each VRRP virtual router that this service creates."""
        return ()

    def frontends(self, services: Mapping[str, "Service"], timing: Timing) -> Sequence[Frontend]:  # noqa: ARG002
        """The frontends that have to answer before the lab counts as serving; `timing` is its guest's."""
        return ()


def unknown_nodes(site: Site, names: Sequence[str], location: Location, in_list: bool = True) -> Iterator[Finding]:
    """A finding for each name that is not a node of the site, or is given twice."""
    for position, name in enumerate(names):
        at = (*location, position if in_list else name)
        if name not in site.nodes:
            yield Finding(at, f"'{name}' is not a node of this topology. {did_you_mean(name, site.nodes)}")
        elif name in names[:position]:
            yield Finding(at, f"the node '{name}' is listed twice.")


def taken_ports(name: str, nodes: Sequence[str], port: int, services: Mapping[str, Service]) -> Iterator[Finding]:
    """A finding for each node on which sshd or an earlier service uses the port already."""
    if port == SSH_PORT:
        yield Finding(("port",), f"port {port} is sshd's on every node; choose another, such as 8080.")
    for position, node in enumerate(nodes):
        for other_name, other in services.items():
            if other_name == name:
                break
            if port in other.ports_on(node):
                yield Finding(("nodes", position), f"'{other_name}' serves port {port} on '{node}' already.")


def ways_back(site: Site, name: str, services: Mapping[str, Service]) -> set[tuple[str, int]]:
    """The nodes and ports of other proxies that pass requests on to the proxy `name`, directly or through others.

    Proxies that come later in the file do not count, so that the last one of a loop reports it.
    """
    known = {}
    for other_name, other in services.items():
        known[other_name] = other
        if other_name == name:
            break
    found: set[tuple[str, int]] = set()
    more = {name}
    while more:
        for each in more:
            proxy = known.pop(each)
            found |= {(node, port) for node in site.nodes for port in proxy.ports_on(node)}
        more = {each for each, other in known.items() if other.asks(each, services) & found}
    return found - {(node, port) for node in site.nodes for port in services[name].ports_on(node)}


def host_at(nodes: Sequence[str], port: int, services: Mapping[str, Service]) -> str | None:
    """A name that the servers at this port require in the Host header; None if they answer to any."""
    for service in services.values():
        if any(port in service.ports_on(node) for node in nodes):
            return next(iter(service.hosts()), None)
    return None


def vip_findings(site: Site, vip: IPv4Address, own: Sequence[str] = ()) -> Iterator[Finding]:
    """What is wrong with a VIP's address; the nodes in `own` may have it as their own."""
    for node, settings in site.nodes.items():
        if vip in settings.addresses.values() and node not in own:
            yield Finding(("vip",), f"{vip} is the address of '{node}'; a VIP needs one of its own.")
    network = site.network_of(vip)
    if network is None:
        yield Finding(("vip",), f"{vip} is in no network of this topology.")
        return
    subnet = site.networks[network]
    if vip in (subnet.subnet.network_address, subnet.subnet.broadcast_address):
        yield Finding(("vip",), f"{vip} is the network or broadcast address of {subnet.subnet}.")
    if vip == subnet.host:
        yield Finding(("vip",), f"{vip} is the physical machine's address on '{network}'.")
    for client in site.clients():
        if network not in site.nodes[client].addresses:
            yield Finding(("vip",), f"the client '{client}' is not on '{network}' and could not reach {vip}.")


def taken_addresses(name: str, vip: IPv4Address, services: Mapping[str, Service]) -> Iterator[Finding]:
    """A finding for each earlier service that already uses the VIP's address."""
    for other_name, other in services.items():
        if other_name == name:
            break
        if vip in other.floating:
            what = "VIP" if vip in other.vips else "gateway"
            yield Finding(("vip",), f"{vip} is the {what} of '{other_name}' already.")


def client_findings(site: Site, nodes: Sequence[str]) -> Iterator[Finding]:
    """A finding for each client that is one of the service's own nodes."""
    for client in site.clients():
        if client in nodes:
            yield Finding((), f"the client '{client}' is part of the service; checks need one outside of it.")
