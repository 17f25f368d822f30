"""A virtual address that one of two machines holds, with Linux-HA heartbeat 3. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Literal

from pydantic import Field
from typing_extensions import override

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
"""The same while heartbeat starts, and its peer may still be booting."""
FAILURES = 3
"""How many times in a row a node's own web server has to fail to answer before the node hands over."""
ASK_SECONDS = 2
"""How long the watch waits for an answer."""
STOP_SECONDS = 30
"""How long heartbeat may take to stop, and again after SIGTERM, before it is killed."""
MOVE_SECONDS = 6
"""How long heartbeat's scripts take to give an address up and to take it; several times that under emulation, since
they fork 300 times."""


class Heartbeat(Service):
    """Two machines, of which the first holds the VIP while it can."""

    type: Literal["heartbeat"]
    vip: Address
    nodes: list[Name] = Field(min_length=1, max_length=MAX_NODES)
    watch: Literal["http"] | None = None
    """`http`: a node also hands over when its own web server is silent; None: only a silent machine is replaced."""
    interval: Number = Field(default=5, ge=1, le=300)
    """Seconds between two requests of the watch."""
    auto_failback: Flag = True
    """Whether the first node gets the VIP back when it returns."""
    port: Port = 80

    @property
    @override
    def vips(self) -> Sequence[IPv4Address]:
        return (self.vip,)

    @property
    def watch_seconds(self) -> float:
        """The longest time from the death of the holder's web server until the holder begins to hand over."""
        return FAILURES * (self.interval + ASK_SECONDS) + ASK_SECONDS

    @override
    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        yield from unknown_nodes(site, self.nodes, ("nodes",))
        if len(self.nodes) != 2:
            yield Finding(("nodes",), f"heartbeat needs exactly two nodes, not {len(self.nodes)}.")
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

    @override
    def placements(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Placement]:
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

    @override
    def frontends(self, services: Mapping[str, Service], timing: Timing) -> Sequence[Frontend]:
        failover = Failover(
            steps=("heartbeat/authkeys", "heartbeat/resources", "heartbeat/heartbeat"), unit="heartbeat",
            messages="-p udp --dport 694",
            crash_seconds=DEADTIME + KEEPALIVE, stop_seconds=0, work_seconds=MOVE_SECONDS,
            returns=self.auto_failback, watch_seconds=self.watch_seconds if self.watch else None)
        return (Frontend(self.vip, self.port, tuple(self.nodes), host=host_at(self.nodes, self.port, services),
                         failover=failover),)
