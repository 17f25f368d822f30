"""Addresses that float between nodes by VRRP, with keepalived. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from typing_extensions import override

from labctl.base.types import Address, Flag, Model, Name, Number, Port
from labctl.language.services.base import (
    Failover,
    Finding,
    Frontend,
    Placement,
    Service,
    Timing,
    client_findings,
    host_at,
    taken_addresses,
    unknown_nodes,
    vip_findings,
)
from labctl.language.site import Site

PRIORITIES = (150, 100, 50)
"""The default priorities of the first, second and third choice."""
WATCH_SECONDS, WATCH_FAILURES = 2, 3
"""Seconds between two checks of the watched port, and how many failures in a row count."""
_FIRST_ROUTER = 51
_FIRST_INSIDE_ROUTER = 151


PASSWORD_PATTERN = r"^[A-Za-z0-9._-]{1,8}$"
"""VRRP has room for eight bytes (RFC 2338, section 5.3.6.1)."""


class Options(Model):
    """How nodes elect the one that holds the VIP."""

    router_id: Number | None = Field(default=None, ge=1, le=255)
    """The virtual router's id, unique on its segment."""
    priorities: tuple[Annotated[Number, Field(ge=1, le=254)], ...] | None = Field(
        default=None, min_length=1, max_length=len(PRIORITIES))
    """One for each node, falling. 255 is for a node that owns the address, which none does."""
    advert: Number = Field(default=1, ge=1, le=10)
    """Seconds between two advertisements."""
    auth: Annotated[str, StringConstraints(pattern=PASSWORD_PATTERN)] | None = None
    """A password that each advertisement contains, as plain text."""
    nopreempt: Flag = False
    """Whether the holder keeps the VIP when the first choice returns."""
    unicast: Flag = False
    """Whether advertisements go to the other nodes' addresses, not to the group 224.0.0.18."""

    def priority(self, position: int) -> int:
        """The priority of the first, second or third choice."""
        return (self.priorities or PRIORITIES)[position]

    def skew_seconds(self, position: int) -> float:
        """The seconds that a node's priority adds to its wait: (256 − priority) / 256 (RFC 3768, section 6.1)."""
        return (256 - self.priority(position)) / 256


def failover(step: str, nodes: Sequence[str], options: Options, timing: Timing,
             together: bool = False, watch_seconds: float | None = None) -> Failover | None:
    """How an address moves between these nodes, alone or `together` with another; None if there is only one node."""
    if len(nodes) < 2:
        return None
    crash = timing.crash_together if together else timing.crash
    skew = options.skew_seconds(1)
    return Failover(steps=(step,), unit="keepalived", messages="-p vrrp",
                    crash_seconds=crash.seconds(options.advert, skew),
                    stop_seconds=timing.stop.seconds(options.advert, skew), work_seconds=0,
                    returns=not options.nopreempt, watch_seconds=watch_seconds)


def election(nodes: Sequence[str], node: str, options: Options) -> dict[str, Any]:
    """The values for a node's keepalived.conf about the election."""
    position = nodes.index(node)
    # keepalived accepts nopreempt only from a node that starts as BACKUP.
    master = position == 0 and not options.nopreempt
    return {"state": "MASTER" if master else "BACKUP", "priority": options.priority(position),
            "advert": options.advert, "nopreempt": options.nopreempt, "auth": options.auth}


def instance(site: Site, nodes: Sequence[str], node: str, addresses: Sequence[IPv4Address], options: Options,
             router_id: int) -> dict[str, Any]:
    """The values for one VRRP instance in keepalived.conf: addresses on one network that move together."""
    network = site.network_of(addresses[0])
    if network is None:
        raise ValueError(f"{addresses[0]} is in no network")
    others = [peer for peer in nodes if peer != node] if options.unicast else []
    return {
        "interface": site.interface(node, network),
        "addresses": [str(address) for address in addresses],
        "router_id": router_id,
        "own": str(site.nodes[node].addresses[network]),
        "peers": [str(site.nodes[peer].addresses[network]) for peer in others],
    }


def router_ids(name: str, services: Mapping[str, Service], options: Options) -> tuple[int, int]:
    """The virtual router ids of a service's instance towards clients and of its instance inside.

    The default ids are unique in a lab.
    """
    index = list(services).index(name)
    return options.router_id or _FIRST_ROUTER + index, _FIRST_INSIDE_ROUTER + index


def election_findings(site: Site, name: str, nodes: Sequence[str], options: Options,
                      services: Mapping[str, Service]) -> Iterator[Finding]:
    """What is wrong with the options of a service's election."""
    priorities = options.priorities or ()
    if priorities and len(priorities) != len(nodes):
        yield Finding(("vrrp", "priorities"), f"give each node a priority: there are {len(nodes)} nodes, and "
                                              f"{len(priorities)} priorities.")
    elif any(first <= second for first, second in pairwise(priorities)):
        yield Finding(("vrrp", "priorities"), "the priorities have to fall, since the first node is the first choice.")
    mine = services[name].routers(site, name, services)
    for other_name, other in services.items():
        if other_name == name:
            break
        for network, number in {*mine} & {*other.routers(site, other_name, services)}:
            yield Finding(("vrrp", "router_id"), f"'{other_name}' uses the virtual router id {number} on '{network}' "
                                                 "already; give one of them another 'router_id'.")


class Vrrp(Service):
    """An address that keepalived moves to another node when its holder dies or stops serving the port."""

    type: Literal["vrrp"]
    vip: Address
    nodes: list[Name] = Field(min_length=2, max_length=len(PRIORITIES))
    """The first choice first."""
    port: Port = 80
    """The port that clients use, and that keepalived watches."""
    vrrp: Options = Options()

    @property
    @override
    def vips(self) -> Sequence[IPv4Address]:
        return (self.vip,)

    @override
    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        yield from unknown_nodes(site, self.nodes, ("nodes",))
        yield from vip_findings(site, self.vip)
        yield from client_findings(site, self.nodes)
        yield from election_findings(site, name, self.nodes, self.vrrp, services)
        network = site.network_of(self.vip)
        for position, node in enumerate(self.nodes):
            if network and node in site.nodes and network not in site.nodes[node].addresses:
                yield Finding(("nodes", position), f"'{node}' is not on '{network}', the VIP's segment.")
            if not any(self.port in service.ports_on(node) for service in services.values()):
                message = f"nothing serves port {self.port} on '{node}'; a service such as haproxy has to."
                yield Finding(("nodes", position), message, needs_all=True)
        yield from taken_addresses(name, self.vip, services)

    @override
    def placements(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Placement]:
        host = host_at(self.nodes, self.port, services)
        for node in self.nodes:
            yield Placement(node, "vrrp/keepalived", {
                **election(self.nodes, node, self.vrrp),
                "instances": [instance(site, self.nodes, node, [self.vip], self.vrrp,
                                       router_ids(name, services, self.vrrp)[0])],
                "port": self.port, "host": host, "watch_seconds": WATCH_SECONDS, "watch_failures": WATCH_FAILURES,
            })

    @override
    def routers(self, site: Site, name: str, services: Mapping[str, Service]) -> Sequence[tuple[str, int]]:
        network = site.network_of(self.vip)
        return [(network, router_ids(name, services, self.vrrp)[0])] if network else []

    @override
    def frontends(self, services: Mapping[str, Service], timing: Timing) -> Sequence[Frontend]:
        return (Frontend(self.vip, self.port, tuple(self.nodes), host_at(self.nodes, self.port, services),
                         failover("vrrp/keepalived", self.nodes, self.vrrp, timing,
                                  watch_seconds=WATCH_SECONDS * (WATCH_FAILURES + 1))),)
