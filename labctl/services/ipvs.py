"""A virtual service of the kernel's load balancer, direct routing (LVS-DR). Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from labctl.services.base import Finding, Frontend, Placement, Service, unknown_nodes
from labctl.site import MAX_NODES, Address, Model, Name, Site

ADVERT = 1
"""Seconds between two VRRP advertisements."""
DELAY_BEFORE_RETRY = 1
"""Seconds between a failed TCP check and the next try (keepalived's own default)."""
_PRIORITIES = (150, 100, 50)
_FIRST_VIRTUAL_ROUTER = 51


class Directors(Model):
    """Who balances: one node by `ipvsadm` alone, or up to three by `keepalived`, the first one as MASTER."""

    ipvsadm: list[Name] | None = Field(default=None, min_length=1)
    keepalived: list[Name] | None = Field(default=None, min_length=1, max_length=len(_PRIORITIES))

    @model_validator(mode="after")
    def _one_kind(self) -> "Directors":
        if (self.ipvsadm is None) == (self.keepalived is None):
            raise ValueError("give either 'ipvsadm: [NODE]' or 'keepalived: [MASTER, BACKUP]'")
        if self.ipvsadm and len(self.ipvsadm) > 1:
            raise ValueError("only one node can hold the VIP by ipvsadm; use keepalived for several directors")
        return self

    @property
    def nodes(self) -> list[str]:
        """All directors, the first choice first."""
        return self.ipvsadm or self.keepalived or []


class Check(Model):
    """How keepalived finds out that a real server is gone."""

    type: Literal["tcp"]
    interval: int = Field(default=2, ge=1, le=300)
    """Seconds between two checks."""
    timeout: int = Field(default=3, ge=1, le=60)
    """Seconds to wait for a connection."""
    retry: int = Field(default=3, ge=0, le=20)

    @property
    def removal_seconds(self) -> float:
        """The longest time from a server's death to its removal from the table."""
        return self.interval + self.timeout + self.retry * (DELAY_BEFORE_RETRY + self.timeout)


class Ipvs(Service):
    """One virtual address and port, spread over real servers."""

    type: Literal["ipvs"]
    vip: Address
    port: int = Field(ge=1, le=65535)
    forward: Literal["dr"]
    scheduler: Literal["rr", "wrr"]
    directors: Directors
    real_servers: dict[Name, Annotated[int, Field(ge=1, le=65535)]] = Field(min_length=1, max_length=MAX_NODES)
    """Node to weight, in the order in which they are added."""
    check: Check = Check(type="tcp")

    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        """See the base class."""
        directors = self.directors.nodes
        kind = "ipvsadm" if self.directors.ipvsadm else "keepalived"
        yield from unknown_nodes(site, directors, ("directors", kind))
        yield from unknown_nodes(site, list(self.real_servers), ("real_servers",), in_list=False)
        yield from self._address_findings(site, name, services)
        for server in self.real_servers:
            if server in directors:
                yield Finding(("real_servers", server), f"'{server}' is a director of this service already.")
            elif server in site.nodes and not any(self.port in s.ports_on(server) for s in services.values()):
                message = f"nothing serves port {self.port} on '{server}'; a service such as httpd has to."
                yield Finding(("real_servers", server), message, needs_all=True)

    def _address_findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        for node, settings in site.nodes.items():
            if self.vip in settings.addresses.values():
                yield Finding(("vip",), f"{self.vip} is the address of '{node}'; a VIP needs one of its own.")
        for other_name, other in services.items():
            if other_name == name:
                break
            if isinstance(other, Ipvs) and other.vip == self.vip:
                yield Finding(("vip",), f"{self.vip} is the VIP of '{other_name}' already.")
        network = site.network_of(self.vip)
        if network is None:
            yield Finding(("vip",), f"{self.vip} is in no network of this topology.")
            return
        subnet = site.networks[network]
        if self.vip in (subnet.subnet.network_address, subnet.subnet.broadcast_address):
            yield Finding(("vip",), f"{self.vip} is the network or broadcast address of {subnet.subnet}.")
        if self.vip == subnet.host:
            yield Finding(("vip",), f"{self.vip} is the physical machine's address on '{network}'.")
        yield from self._segment_findings(site, network)

    def _segment_findings(self, site: Site, network: str) -> Iterator[Finding]:
        for node in [*self.directors.nodes, *self.real_servers]:
            if node in site.nodes and network not in site.nodes[node].addresses:
                key: tuple[str, ...] = ("real_servers", node) if node in self.real_servers else ("directors",)
                message = (f"'{node}' is not on '{network}', the VIP's segment; direct routing only changes the "
                           "destination MAC address, so all have to share one segment.")
                yield Finding(key, message)
        for client in site.clients():
            if network not in site.nodes[client].addresses:
                yield Finding(("vip",), f"the client '{client}' is not on '{network}' and could not reach {self.vip}.")
            if client in self.directors.nodes or client in self.real_servers:
                yield Finding((), f"the client '{client}' is part of the service; checks need one outside of it.")

    def placements(self, site: Site, name: str, index: int) -> Iterator[Placement]:  # noqa: ARG002
        """See the base class."""
        network = site.network_of(self.vip)
        if network is None:
            raise ValueError(f"the VIP {self.vip} is in no network")
        servers = [{"name": server, "address": str(site.nodes[server].addresses[network]), "weight": weight}
                   for server, weight in self.real_servers.items()]
        values = {"vip": str(self.vip), "port": self.port, "scheduler": self.scheduler, "servers": servers}
        for server in self.real_servers:
            yield Placement(server, "ipvs/arp")
            yield Placement(server, "ipvs/vip-lo", values)
        for position, director in enumerate(self.directors.nodes):
            here = {**values, "interface": site.interface(director, network)}
            if self.directors.ipvsadm:
                yield Placement(director, "ipvs/vip", here)
                yield Placement(director, "ipvs/rules", here)
                continue
            yield Placement(director, "ipvs/keepalived", {
                **here,
                "state": "BACKUP" if position else "MASTER",
                "priority": _PRIORITIES[position],
                "virtual_router_id": _FIRST_VIRTUAL_ROUTER + index,
                "advert": ADVERT,
                "check": self.check.model_dump(),
                "delay_before_retry": DELAY_BEFORE_RETRY,
            })

    def frontends(self) -> Sequence[Frontend]:
        """See the base class."""
        return (Frontend(self.vip, self.port, tuple(self.directors.nodes)),)

    def takeover_seconds(self, director: str) -> float:
        """How long this backup waits for a MASTER that fell silent (RFC 3768: 3 × interval + skew)."""
        return 3 * ADVERT + self.skew_seconds(director)

    def skew_seconds(self, director: str) -> float:
        """How long this backup waits when the MASTER resigned (RFC 3768: (256 − priority) / 256 s)."""
        return (256 - _PRIORITIES[self.directors.nodes.index(director)]) / 256
