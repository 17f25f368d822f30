"""Apache httpd whose page says which server answered. Pure."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field
from typing_extensions import override

from labctl.base.types import Name, Port
from labctl.language.services.base import Finding, Placement, Service, taken_ports, unknown_nodes
from labctl.language.site import MAX_NODES, Site

DEFAULT_PORT = 80
"""The packaged configuration always listens here."""


class Httpd(Service):
    """A web server on each of the nodes; its page is the node's name."""

    type: Literal["httpd"]
    nodes: list[Name] = Field(min_length=1, max_length=MAX_NODES)
    port: Port = DEFAULT_PORT

    @override
    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        yield from unknown_nodes(site, self.nodes, ("nodes",))
        # Two httpd services on one node are one program that listens on both ports.
        others = {other: service for other, service in services.items()
                  if not isinstance(service, Httpd) or service.port == self.port or other == name}
        for port in sorted({DEFAULT_PORT, self.port}):
            yield from taken_ports(name, self.nodes, port, others)

    @override
    def placements(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Placement]:
        for node in self.nodes:
            yield Placement(node, "httpd/page")
            if self.port != DEFAULT_PORT:
                yield Placement(node, "httpd/port", {"port": self.port})
            yield Placement(node, "httpd/httpd")

    @override
    def ports_on(self, node: str) -> set[int]:
        return {DEFAULT_PORT, self.port} if node in self.nodes else set()
