"""A router between the lab's networks. Pure."""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import Literal

from typing_extensions import override

from labctl.base.types import Name
from labctl.language.services.base import Finding, Placement, Service, unknown_nodes
from labctl.language.site import Site


class Router(Service):
    """A node on several networks that forwards between them; its neighbours get routes through it."""

    type: Literal["router"]
    node: Name

    @override
    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        yield from (finding._replace(location=("node",)) for finding in unknown_nodes(site, [self.node], ()))
        if self.node in site.nodes and len(site.nodes[self.node].addresses) < 2:
            yield Finding(("node",), f"'{self.node}' is on one network only; a router connects at least two.")

    @override
    def placements(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Placement]:
        yield Placement(self.node, "router/forward")
        for node in site.nodes:
            routes = [{"subnet": str(site.networks[network].subnet), "via": str(via)}
                      for network, via in self.routes(site, node).items()]
            if routes:
                yield Placement(node, "router/routes", {"routes": routes})

    def routes(self, site: Site, node: str) -> dict[str, IPv4Address]:
        """The networks that a node reaches through this router, and the router's address that it uses for each."""
        here, there = site.nodes[node].addresses, site.nodes[self.node].addresses
        shared = next((network for network in there if network in here), None)
        if node == self.node or shared is None:
            return {}
        return {network: there[shared] for network in there if network not in here}


def reaches(site: Site, services: Mapping[str, Service], start: str, network: str) -> bool:
    """Whether a node is on a network, or has a router to it."""
    return network in site.nodes[start].addresses or any(
        service.node in site.nodes and network in service.routes(site, start)
        for service in services.values() if isinstance(service, Router))
