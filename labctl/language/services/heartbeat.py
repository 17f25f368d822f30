"""A virtual address that one of two machines holds, by Linux-HA heartbeat 3. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Literal

from pydantic import Field

from labctl.base.types import Address, Flag, Name, Number, Port
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
from labctl.language.site import MAX_NODES, Site

KEEPALIVE = 1
"""Seconds between two heartbeats."""
DEADTIME = 5
"""Seconds of silence after which a node counts as dead."""
INITDEAD = 60
"""The same while the first of the two starts."""
FAILURES = 3
"""How often in a row a node's own web server has to fail to answer before it hands over."""
ASK_SECONDS = 2
"""How long a watch waits for an answer."""
STOP_SECONDS = 30
"""How long heartbeat has to end once it is asked, and again after it was sent SIGTERM; then it is killed."""
MOVE_SECONDS = 6
"""What heartbeat's scripts take to give an address up and to take it; several times that under emulation, where each
of their 300 forks costs 50 ms or more."""


class Heartbeat(Service):
    """Two machines, of which the first holds the VIP while it can."""

    type: Literal["heartbeat"]
    vip: Address
    nodes: list[Name] = Field(min_length=1, max_length=MAX_NODES)
    watch: Literal["http"] | None = None
    """A node whose own web server is silent hands over; without it only a silent machine is replaced."""
    interval: Number = Field(default=5, ge=1, le=300)
    """Seconds between two questions of the watch."""
    auto_failback: Flag = True
    """The first node gets the VIP back when it returns."""
    port: Port = 80

    @property
    def vips(self) -> Sequence[IPv4Address]:
        """See the base class."""
        return (self.vip,)

    @property
    def watch_seconds(self) -> float:
        """The longest time from the death of the holder's web server until it begins to hand over."""
        return FAILURES * (self.interval + ASK_SECONDS) + ASK_SECONDS

    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        """See the base class."""
        yield from unknown_nodes(site, self.nodes, ("nodes",))
        if len(self.nodes) != 2:
            yield Finding(("nodes",), f"heartbeat is for exactly two nodes, and this is {len(self.nodes)}.")
        yield from vip_findings(site, self.vip)
        yield from client_findings(site, self.nodes)
        yield from taken_addresses(name, self.vip, services)
        for other_name, other in services.items():
            if other_name == name:
                break
            if isinstance(other, Heartbeat):
                for position, node in enumerate(self.nodes):
                    if node in other.nodes:
                        yield Finding(("nodes", position), f"'{node}' is in the cluster '{other_name}' already.")
        network = site.network_of(self.vip)
        for position, node in enumerate(self.nodes):
            if node not in site.nodes:
                continue
            if network and network not in site.nodes[node].addresses:
                yield Finding(("nodes", position), f"'{node}' is not on '{network}', the VIP's segment.")
            if not any(self.port in service.ports_on(node) for service in services.values()):
                message = f"nothing serves port {self.port} on '{node}'; a service such as nginx has to."
                yield Finding(("nodes", position), message, needs_all=True)

    def placements(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Placement]:  # noqa: ARG002
        """See the base class."""
        network = site.network_of(self.vip)
        if network is None:
            raise ValueError(f"the VIP {self.vip} is in no network")
        host = host_at(self.nodes, self.port, services)
        for node, peer in zip(self.nodes, reversed(self.nodes), strict=True):
            interface = site.interface(node, network)
            where = {"vip": str(self.vip), "prefix": site.networks[network].subnet.prefixlen, "interface": interface}
            address, peer_address = (site.nodes[each].addresses[network] for each in (node, peer))
            yield Placement(node, "heartbeat/authkeys")
            yield Placement(node, "heartbeat/resources", {**where, "first": self.nodes[0]})
            yield Placement(node, "heartbeat/heartbeat", {
                **where, "nodes": self.nodes, "peer": str(peer_address), "keepalive": KEEPALIVE, "deadtime": DEADTIME,
                "initdead": INITDEAD, "stop_seconds": STOP_SECONDS, "auto_failback": self.auto_failback,
            })
            if self.watch:
                yield Placement(node, "heartbeat/watch", {
                    **where, "interval": self.interval, "failures": FAILURES,
                    "ask_seconds": ASK_SECONDS, "move_seconds": MOVE_SECONDS, "header": host,
                    "url": f"http://{address}:{self.port}/", "peer_url": f"http://{peer_address}:{self.port}/",
                    "comes_back": self.auto_failback and node == self.nodes[0],
                })

    def frontends(self, services: Mapping[str, Service], timing: Timing) -> Sequence[Frontend]:  # noqa: ARG002
        """See the base class."""
        failover = Failover(
            steps=("heartbeat/authkeys", "heartbeat/resources", "heartbeat/heartbeat"), unit="heartbeat",
            messages="-p udp --dport 694",
            crash_seconds=DEADTIME + KEEPALIVE, stop_seconds=0, work_seconds=MOVE_SECONDS,
            returns=self.auto_failback)
        return (Frontend(self.vip, self.port, tuple(self.nodes), host=host_at(self.nodes, self.port, services),
                         failover=failover),)
