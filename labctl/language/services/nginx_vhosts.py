"""nginx as a proxy that sends each name in the Host header to servers of its own. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from labctl.base.types import Name
from labctl.language.services.base import Finding, Placement, Service, taken_ports, unknown_nodes, ways_back
from labctl.language.site import MAX_NODES, Site

PORT = 80
FAIL_SECONDS = 5
"""How long a proxy leaves out a server that did not answer."""
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
"""RFC 1123, section 2.1."""


class NginxVhosts(Service):
    """Identical proxies; each virtual host's servers are used in turn."""

    type: Literal["nginx-vhosts"]
    nodes: list[Name] = Field(min_length=1, max_length=MAX_NODES)
    vhosts: dict[str, Annotated[list[Name], Field(min_length=1, max_length=MAX_NODES)]] = Field(
        min_length=1, max_length=MAX_NODES)
    """Host name to the nodes that serve it."""

    @override
    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        yield from unknown_nodes(site, self.nodes, ("nodes",))
        yield from taken_ports(name, self.nodes, PORT, services)
        loops = ways_back(site, name, services)
        seen: dict[str, str] = {}
        for host, servers in self.vhosts.items():
            here = ("vhosts", host)
            if not _HOST.fullmatch(host) or len(host) > 253:
                yield Finding(here, f"'{host}' is not a host name: letters, digits and '-', in parts joined by dots.")
            if host.lower() in seen:
                yield Finding(here, f"'{host}' and '{seen[host.lower()]}' are the same host name.")
            seen[host.lower()] = host
            yield from unknown_nodes(site, servers, here)
            for position, server in enumerate(servers):
                if server not in site.nodes:
                    continue
                behind = _server(server, name, services)
                if behind is None:
                    message = f"nothing serves HTTP on '{server}'; a service such as httpd has to."
                    yield Finding((*here, position), message, needs_all=True)
                elif (server, behind[1]) in loops:
                    yield Finding((*here, position), f"what is sent to '{server}' would come back to this proxy; leave "
                                                     "one proxy out of the other's servers.")
                elif (names := behind[0].hosts()) and host.lower() not in map(str.lower, names):
                    yield Finding((*here, position), f"'{server}' answers only to names such as '{names[0]}', and "
                                                     f"'{host}' is none of them.")
                for proxy in self.nodes:
                    if proxy in site.nodes and not site.address_from(proxy, server):
                        message = f"'{proxy}' and '{server}' share no network, so the proxy could not reach it."
                        yield Finding((*here, position), message)

    @override
    def placements(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Placement]:
        for node in self.nodes:
            vhosts = [{"host": host, "servers": [f"{site.address_from(node, server)}:{behind[1]}" for server in servers
                                                 if (behind := _server(server, name, services))]}
                      for host, servers in self.vhosts.items()]
            yield Placement(node, "nginx-vhosts/vhosts", {"port": PORT, "vhosts": vhosts, "fail_seconds": FAIL_SECONDS})
            yield Placement(node, "nginx-vhosts/default", {"port": PORT})
            yield Placement(node, "nginx/nginx")

    @override
    def passes_on(self) -> Mapping[str, float]:
        # A request that a server does not take goes to the next one.
        return {server: 0 if len(servers) > 1 else inf for servers in self.vhosts.values() for server in servers}

    @override
    def asks(self, name: str, services: Mapping[str, Service]) -> set[tuple[str, int]]:
        return {(server, behind[1]) for servers in self.vhosts.values() for server in servers
                if (behind := _server(server, name, services))}

    @override
    def ports_on(self, node: str) -> set[int]:
        return {PORT} if node in self.nodes else set()

    @override
    def hosts(self) -> Sequence[str]:
        return list(self.vhosts)


def _server(server: str, name: str, services: Mapping[str, Service]) -> tuple[Service, int] | None:
    """The service other than `name` that answers HTTP on a node, and the port."""
    return next(((other, port) for other_name, other in services.items() if other_name != name
                 for port in sorted(other.ports_on(server))), None)
