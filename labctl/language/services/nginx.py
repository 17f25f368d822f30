"""nginx whose page says which server answered. Pure."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field
from typing_extensions import override

from labctl.base.types import Name, Port
from labctl.language.services.base import Finding, Placement, Service, taken_ports, unknown_nodes
from labctl.language.site import MAX_NODES, Site


class Nginx(Service):
    """A web server on each of the nodes; its page is the node's name."""

    type: Literal["nginx"]
    nodes: list[Name] = Field(min_length=1, max_length=MAX_NODES)
    port: Port = 80

    @override
    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        yield from unknown_nodes(site, self.nodes, ("nodes",))
        yield from taken_ports(name, self.nodes, self.port, services)

    @override
    def placements(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Placement]:
        for node in self.nodes:
            yield Placement(node, "nginx/page")
            yield Placement(node, "nginx/site", {"port": self.port})
            yield Placement(node, "nginx/nginx")

    @override
    def ports_on(self, node: str) -> set[int]:
        return {self.port} if node in self.nodes else set()
