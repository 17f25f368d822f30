"""Addresses that float between nodes by VRRP, as keepalived does it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any, Literal

from pydantic import Field

from labctl.base.types import Address, Flag, Model, Name, Port
from labctl.language.services.base import (
    Failover,
    Finding,
    Frontend,
    Placement,
    Service,
    client_findings,
    host_at,
    unknown_nodes,
    vip_findings,
)
from labctl.language.site import Site

ADVERT = 1
"""Seconds between two advertisements."""
PRIORITIES = (150, 100, 50)
"""Of the first, second and third choice."""
WATCH_SECONDS, WATCH_FAILURES = 2, 3
"""How often a watched port is asked, and how many failures in a row count."""
_FIRST_ROUTER = 51
_FIRST_INSIDE_ROUTER = 151


class Options(Model):
    """How directors elect the one that holds the VIP."""

    nopreempt: Flag = False
    """Whoever holds the VIP keeps it, also when the first choice returns."""
    unicast: Flag = False
    """Advertisements go to the other directors' addresses, not to the group 224.0.0.18."""


def skew_seconds(position: int) -> float:
    """How long a backup waits when the MASTER resigned (RFC 3768: (256 − priority) / 256 s)."""
    return (256 - PRIORITIES[position]) / 256


def takeover_seconds(position: int) -> float:
    """How long a backup waits for a MASTER that fell silent (RFC 3768: 3 × interval + skew)."""
    return 3 * ADVERT + skew_seconds(position)


def failover(step: str, nodes: Sequence[str], options: Options) -> Failover | None:
    """How an address moves between these nodes; None where there is only one."""
    if len(nodes) < 2:
        return None
    return Failover(steps=(step,), unit="keepalived", messages="-p vrrp", crash_seconds=takeover_seconds(1),
                    stop_seconds=skew_seconds(1), work_seconds=0, returns=not options.nopreempt)


def election(nodes: Sequence[str], node: str, options: Options) -> dict[str, Any]:
    """What a node's keepalived has to know of the election."""
    position = nodes.index(node)
    # keepalived takes nopreempt only from a node that starts as BACKUP.
    master = position == 0 and not options.nopreempt
    return {"state": "MASTER" if master else "BACKUP", "priority": PRIORITIES[position], "advert": ADVERT,
            "nopreempt": options.nopreempt}


def instance(site: Site, nodes: Sequence[str], node: str, addresses: Sequence[IPv4Address], options: Options,
             router_id: int) -> dict[str, Any]:
    """One VRRP instance: addresses on one network, which move together."""
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


def router_ids(name: str, services: Mapping[str, Service]) -> tuple[int, int]:
    """The virtual router ids of a service's instance towards clients and of the one inside: unique in a lab."""
    index = list(services).index(name)
    return _FIRST_ROUTER + index, _FIRST_INSIDE_ROUTER + index


class Vrrp(Service):
    """An address that keepalived moves to another node when its holder dies, or stops serving the port."""

    type: Literal["vrrp"]
    vip: Address
    nodes: list[Name] = Field(min_length=2, max_length=len(PRIORITIES))
    """The first choice first."""
    port: Port = 80
    """What clients use the address for, and what is watched."""
    vrrp: Options = Options()

    @property
    def vips(self) -> Sequence[IPv4Address]:
        """See the base class."""
        return (self.vip,)

    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        """See the base class."""
        yield from unknown_nodes(site, self.nodes, ("nodes",))
        yield from vip_findings(site, self.vip)
        yield from client_findings(site, self.nodes)
        network = site.network_of(self.vip)
        for position, node in enumerate(self.nodes):
            if network and node in site.nodes and network not in site.nodes[node].addresses:
                yield Finding(("nodes", position), f"'{node}' is not on '{network}', the VIP's segment.")
            if not any(self.port in service.ports_on(node) for service in services.values()):
                message = f"nothing serves port {self.port} on '{node}'; a service such as haproxy has to."
                yield Finding(("nodes", position), message, needs_all=True)
        for other_name, other in services.items():
            if other_name == name:
                break
            if self.vip in other.vips:
                yield Finding(("vip",), f"{self.vip} is the VIP of '{other_name}' already.")

    def placements(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Placement]:
        """See the base class."""
        host = host_at(self.nodes, self.port, services)
        for node in self.nodes:
            yield Placement(node, "vrrp/keepalived", {
                **election(self.nodes, node, self.vrrp),
                "instances": [instance(site, self.nodes, node, [self.vip], self.vrrp, router_ids(name, services)[0])],
                "port": self.port, "host": host, "watch_seconds": WATCH_SECONDS, "watch_failures": WATCH_FAILURES,
            })

    def frontends(self, services: Mapping[str, Service]) -> Sequence[Frontend]:
        """See the base class."""
        return (Frontend(self.vip, self.port, tuple(self.nodes), host_at(self.nodes, self.port, services),
                         failover("vrrp/keepalived", self.nodes, self.vrrp)),)
