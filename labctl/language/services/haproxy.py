"""HAProxy: balancing on layer 7, the alternative to IPVS. Pure."""

from collections.abc import Iterator, Mapping
from math import inf
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from labctl.base.types import Name, Number, Port
from labctl.language.services.base import (
    Finding,
    Placement,
    Service,
    host_at,
    taken_ports,
    unknown_nodes,
    ways_back,
)
from labctl.language.site import MAX_NODES, Site

CHECK_SECONDS, CHECK_FAILURES = 2, 3
"""Seconds between two checks of a server, and how many failures in a row take it out."""


class Haproxy(Service):
    """A proxy on each of the nodes, in front of the same servers."""

    type: Literal["haproxy"]
    nodes: list[Name] = Field(min_length=1, max_length=MAX_NODES)
    servers: dict[Name, Annotated[Number, Field(ge=1, le=256)]] = Field(min_length=1, max_length=MAX_NODES)
    """Node to weight."""
    port: Port = 80
    server_port: Port = 80

    @override
    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        yield from unknown_nodes(site, self.nodes, ("nodes",))
        yield from unknown_nodes(site, list(self.servers), ("servers",), in_list=False)
        yield from taken_ports(name, self.nodes, self.port, services)
        for other_name, other in services.items():
            if other_name == name:
                break
            for position, node in enumerate(self.nodes):
                if isinstance(other, Haproxy) and node in other.nodes:
                    yield Finding(("nodes", position), f"'{other_name}' is the HAProxy of '{node}' already.")
        loops = ways_back(site, name, services)
        for server in self.servers:
            if server not in site.nodes:
                continue
            host = host_at([server], self.server_port, services)
            if server in self.nodes and self.server_port == self.port:
                yield Finding(("servers", server), f"'{server}' would be a server of its own HAProxy.")
            elif (server, self.server_port) in loops:
                yield Finding(("servers", server), f"what is sent to '{server}' would come back to this HAProxy; leave "
                                                   "one proxy out of the other's servers.")
            elif host:
                yield Finding(("servers", server), f"'{server}' answers only to names such as '{host}', and HAProxy's "
                                                   "checks give none, so it would never use it.")
            elif not any(self.server_port in service.ports_on(server) for service in services.values()):
                message = f"nothing serves port {self.server_port} on '{server}'; a service such as httpd has to."
                yield Finding(("servers", server), message, needs_all=True)
            for position, node in enumerate(self.nodes):
                if node in site.nodes and not set(site.nodes[node].addresses) & set(site.nodes[server].addresses):
                    yield Finding(("nodes", position), f"'{node}' and its server '{server}' share no network.")

    @override
    def placements(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Placement]:
        for node in self.nodes:
            networks = site.nodes[node].addresses
            servers = [{"name": server, "weight": weight,
                        "address": str(next(address for network, address in site.nodes[server].addresses.items()
                                            if network in networks))}
                       for server, weight in self.servers.items()]
            yield Placement(node, "haproxy/haproxy", {
                "port": self.port, "server_port": self.server_port, "servers": servers,
                "check_seconds": CHECK_SECONDS, "check_failures": CHECK_FAILURES})

    @override
    def passes_on(self) -> Mapping[str, float]:
        # A server dies right after it was asked, and the last of its failures lasts as long as a pause.
        return dict.fromkeys(self.servers, CHECK_SECONDS * (CHECK_FAILURES + 1) if len(self.servers) > 1 else inf)

    @override
    def asks(self, name: str, services: Mapping[str, Service]) -> set[tuple[str, int]]:
        return {(server, self.server_port) for server in self.servers}

    @override
    def ports_on(self, node: str) -> set[int]:
        return {self.port} if node in self.nodes else set()
