"""Apache httpd whose page says which server answered. Pure."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field

from labctl.services.base import Finding, Placement, Service, unknown_nodes
from labctl.site import MAX_NODES, Name, Site

PORT = 80


class Httpd(Service):
    """A web server on each of the nodes; its page is the node's name."""

    type: Literal["httpd"]
    nodes: list[Name] = Field(min_length=1, max_length=MAX_NODES)

    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        """See the base class."""
        yield from unknown_nodes(site, self.nodes, ("nodes",))
        for position, node in enumerate(self.nodes):
            for other_name, other in services.items():
                if other_name != name and PORT in other.ports_on(node):
                    message = f"'{other_name}' serves port {PORT} on '{node}' already."
                    yield Finding(("nodes", position), message)

    def placements(self, site: Site, name: str, index: int) -> Iterator[Placement]:  # noqa: ARG002
        """See the base class."""
        for node in self.nodes:
            yield Placement(node, "httpd/page")
            yield Placement(node, "httpd/httpd")

    def ports_on(self, node: str) -> set[int]:
        """See the base class."""
        return {PORT} if node in self.nodes else set()
