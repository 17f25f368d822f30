"""Time from one machine's clock for the others. Pure."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field
from typing_extensions import override

from labctl.base.types import Name
from labctl.language.services.base import Finding, Placement, Service, unknown_nodes
from labctl.language.site import MAX_NODES, Site

STRATUM = 10
"""The stratum of a server that has no better clock than its own (0: a reference clock, 16: not synchronised)."""


class Ntp(Service):
    """A server that distributes its own clock's time, and the machines that follow it."""

    type: Literal["ntp"]
    server: Name
    clients: list[Name] = Field(min_length=1, max_length=MAX_NODES)

    @property
    def nodes(self) -> list[str]:
        """The server and its clients."""
        return [self.server, *self.clients]

    @override
    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        yield from (Finding(("server",), message) for _, message, _ in unknown_nodes(site, [self.server], ()))
        yield from unknown_nodes(site, self.clients, ("clients",))
        for node in self.nodes:
            for other_name, other in services.items():
                if other_name == name:
                    break
                if isinstance(other, Ntp) and node in other.nodes:
                    at = ("server",) if node == self.server else ("clients", self.clients.index(node))
                    yield Finding(at, f"'{other_name}' sets the clock of '{node}' already.")
        for position, client in enumerate(self.clients):
            if client == self.server:
                yield Finding(("clients", position), f"'{client}' is the server already.")
            elif {client, self.server} <= site.nodes.keys() and not site.address_from(client, self.server):
                message = f"'{client}' and '{self.server}' share no network, so the client could not ask for the time."
                yield Finding(("clients", position), message)

    @override
    def placements(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Placement]:
        subnets = [site.networks[network].subnet for network in site.nodes[self.server].addresses]
        yield Placement(self.server, "ntp/server", {"stratum": STRATUM, "subnets": [
            {"address": str(subnet.network_address), "mask": str(subnet.netmask)} for subnet in subnets]})
        for client in self.clients:
            yield Placement(client, "ntp/client", {"server": str(site.address_from(client, self.server))})
