"""What every service type says about itself. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from labctl.site import Model, Site
from labctl.suggest import did_you_mean
from labctl.yamlfile import Location


class Finding(NamedTuple):
    """Something wrong at a location relative to the service."""

    location: Location
    message: str
    needs_all: bool = False
    """Holds only where every service in the file could be read."""


@dataclass(frozen=True)
class Placement:
    """A step (`ipvs/arp`: a file in cloud-init/steps) on a node, with the values its template needs."""

    node: str
    step: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Frontend:
    """An address and TCP port that clients use, and the nodes that may hold the address, first choice first."""

    address: IPv4Address
    port: int
    holders: Sequence[str]


class Service(Model):
    """The base of all service types; a subclass is one entry under `services:`."""

    def findings(self, site: Site, name: str, services: Mapping[str, "Service"]) -> Iterator[Finding]:
        """What is wrong with this service in its site and beside the other services."""
        raise NotImplementedError

    def placements(self, site: Site, name: str, index: int) -> Iterator[Placement]:
        """The steps this service puts on nodes, in order; `index` is its place in the file, from 0."""
        raise NotImplementedError

    def ports_on(self, node: str) -> set[int]:  # noqa: ARG002
        """The TCP ports on which this service answers at the node's own addresses."""
        return set()

    def frontends(self) -> Sequence[Frontend]:
        """What has to answer before the lab serves."""
        return ()


def unknown_nodes(site: Site, names: Sequence[str], location: Location, in_list: bool = True) -> Iterator[Finding]:
    """A finding for each name that is no node of the site, and for each one given twice."""
    for position, name in enumerate(names):
        at = (*location, position if in_list else name)
        if name not in site.nodes:
            yield Finding(at, f"'{name}' is not a node of this topology. {did_you_mean(name, site.nodes)}")
        elif name in names[:position]:
            yield Finding(at, f"the node '{name}' is listed twice.")
