"""A virtual service of the kernel's load balancer (LVS), with direct routing, NAT or tunnels. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from math import inf
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import override

from labctl.base.types import Address, Flag, Model, Name, Number, Port
from labctl.language.services.base import (
    SSH_PORT,
    Finding,
    Frontend,
    Placement,
    Service,
    Timing,
    client_findings,
    host_at,
    unknown_nodes,
    vip_findings,
)
from labctl.language.services.router import Router, reaches
from labctl.language.services.vrrp import (
    PRIORITIES,
    Options,
    election,
    election_findings,
    failover,
    instance,
    router_ids,
)
from labctl.language.site import MAX_NODES, Site

DELAY_BEFORE_RETRY = 1
"""Seconds between a failed check and the next try (keepalived's own default for TCP)."""
_FLAGS = {"dr": "-g", "nat": "-m", "tun": "-i"}
_KINDS = {"dr": "DR", "nat": "NAT", "tun": "TUN"}


class Directors(Model):
    """The nodes that balance: one with `ipvsadm` alone, or up to three with `keepalived`, the first as MASTER."""

    ipvsadm: list[Name] | None = Field(default=None, min_length=1)
    keepalived: list[Name] | None = Field(default=None, min_length=1, max_length=len(PRIORITIES))

    @model_validator(mode="after")
    def _one_kind(self) -> "Directors":
        if (self.ipvsadm is None) == (self.keepalived is None):
            raise ValueError("give either 'ipvsadm: [NODE]' or 'keepalived: [MASTER, BACKUP]'")
        if self.ipvsadm and len(self.ipvsadm) > 1:
            raise ValueError("only one node can hold the VIP with ipvsadm; use keepalived for several directors")
        return self

    @property
    def kind(self) -> str:
        """The program that maintains the kernel's table."""
        return "ipvsadm" if self.ipvsadm else "keepalived"

    @property
    def nodes(self) -> list[str]:
        """All directors, the first choice first."""
        return self.ipvsadm or self.keepalived or []


class Check(Model):
    """How a director notices that a real server is gone: it accepts no connection, or its page is not a 200."""

    type: Literal["tcp", "http"]
    interval: Number = Field(default=2, ge=1, le=300)
    """Seconds between two checks."""
    timeout: Number = Field(default=3, ge=1, le=60)
    """Seconds to wait for a connection, and again for an answer."""
    retry: Number = Field(default=3, ge=0, le=20)

    @property
    def removal_seconds(self) -> float:
        """The longest time from a server's death to its removal from the table."""
        return self.interval + self.timeout + self.retry * (DELAY_BEFORE_RETRY + self.timeout)


class Persistence(Model):
    """A client keeps its server as long as it comes back within the timeout."""

    per: Literal["client", "port", "mark"]
    """`client`: on every port of the VIP (PCC); `port`: on this port (PPC); `mark`: on packets with the mark (PFMC)."""
    timeout: Number = Field(default=300, ge=1, le=86400)
    """Seconds; 300 is the kernel's own default."""


class Mark(Model):
    """A firewall mark: the balancer treats all packets with it as one service."""

    number: Number = Field(ge=1, le=2**31 - 1)
    vips: list[Address] = Field(default_factory=list, max_length=32)
    """Addresses in addition to the service's VIP."""
    ports: list[Port] = Field(default_factory=list, max_length=14)
    """Ports in addition to the service's own (iptables' multiport takes 15)."""


class Ipvs(Service):
    """One virtual address and port, spread over real servers."""

    type: Literal["ipvs"]
    vip: Address
    port: Port
    forward: Literal["dr", "nat", "tun"]
    scheduler: Literal["rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "lblc", "lblcr"]
    directors: Directors
    real_servers: dict[Name, Annotated[Number, Field(ge=1, le=65535)]] = Field(min_length=1, max_length=MAX_NODES)
    """Node to weight, in the order in which they are added."""
    real_port: Port | None = None
    """NAT only: where the real servers listen, if not at `port`."""
    gateway: Address | None = None
    """NAT with keepalived: the real servers' gateway, which floats together with the VIP."""
    snat: Flag = False
    """NAT only: whether connections that real servers open get the director's address as their source."""
    mark: Mark | None = None
    persistence: Persistence | None = None
    check: Check | None = None
    """None: keepalived checks by TCP, and with ipvsadm nothing does. With ipvsadm a script makes the check."""
    vrrp: Options = Options()

    @property
    @override
    def vips(self) -> Sequence[IPv4Address]:
        return list(dict.fromkeys([self.vip, *(self.mark.vips if self.mark else [])]))

    @property
    @override
    def floating(self) -> Sequence[IPv4Address]:
        return [*self.vips, *([self.gateway] if self.gateway and self.directors.keepalived else [])]

    @property
    def ports(self) -> list[int]:
        """All ports that the service names."""
        return list(dict.fromkeys([self.port, *(self.mark.ports if self.mark else [])]))

    @property
    def server_port(self) -> int:
        """The port on which real servers listen."""
        return self.real_port or self.port

    @property
    def health(self) -> Check | None:
        """The health check in effect, if any."""
        return self.check or (Check(type="tcp") if self.directors.keepalived else None)

    @override
    def passes_on(self) -> Mapping[str, float]:
        # The script beside ipvsadm asks one server after the other.
        seconds = self.health.removal_seconds * (1 if self.directors.keepalived else 2) if self.health else inf
        return dict.fromkeys(self.real_servers, seconds if len(self.real_servers) > 1 else inf)

    @property
    def virtual(self) -> str:
        """The virtual service in ipvsadm's arguments."""
        if self.mark:
            return f"-f {self.mark.number}"
        return f"-t {self.vip}:{self.table_port(self.port)}"

    def table_port(self, port: int) -> int:
        """Port 0 in the table means every port."""
        return 0 if self.mark or (self.persistence and self.persistence.per == "client") else port

    # ---- Networks -------------------------------------------------------------------------------------------

    def servers_network(self, site: Site, server: str) -> str | None:
        """The network on which directors reach a real server; None if there is none."""
        vip_network = site.network_of(self.vip)
        addresses = list(site.nodes[server].addresses)
        if self.forward == "dr" or (self.forward == "tun" and vip_network in addresses):
            return vip_network if vip_network in addresses else None
        if self.forward == "tun":
            return addresses[0] if addresses else None
        directors = [site.nodes[node].addresses for node in self.directors.nodes if node in site.nodes]
        return next((network for network in addresses if all(network in mine for mine in directors)), None)

    def server_address(self, site: Site, server: str) -> IPv4Address:
        """The address at which directors reach a real server."""
        network = self.servers_network(site, server)
        if network is None:
            raise ValueError(f"no director reaches '{server}'")
        return site.nodes[server].addresses[network]

    def server_gateway(self, site: Site, server: str) -> IPv4Address | None:
        """A NAT real server's default gateway, a director; None if there is none."""
        network = self.servers_network(site, server)
        director = self.directors.nodes[0]
        if self.forward != "nat" or network is None:
            return None
        return self.gateway or (site.nodes[director].addresses[network] if director in site.nodes else None)

    # ---- Rules ----------------------------------------------------------------------------------------------

    @override
    def findings(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        directors = self.directors.nodes
        yield from unknown_nodes(site, directors, ("directors", self.directors.kind))
        yield from unknown_nodes(site, list(self.real_servers), ("real_servers",), in_list=False)
        own = directors if self.forward == "nat" and self.directors.ipvsadm else []
        if any(node in site.nodes and self.vip in site.nodes[node].addresses.values() for node in own) \
                and self.table_port(self.port) == 0:
            yield Finding(("vip",), f"a service on every port of '{own[0]}' itself would take its SSH as well; "
                                    "give the service a VIP of its own.")
        yield from self._own_address_findings(site, own, services)
        yield from vip_findings(site, self.vip, own)
        for position, vip in enumerate(self.mark.vips if self.mark else []):
            at = ("mark", "vips", position)
            yield from (finding._replace(location=at) for finding in vip_findings(site, vip, own))
            network = site.network_of(self.vip)
            if network and site.network_of(vip) not in (None, network):
                yield Finding(at, f"{vip} is not on '{network}', the segment of the VIP {self.vip}.")
        yield from client_findings(site, [*directors, *self.real_servers])
        yield from self._neighbour_findings(name, services)
        yield from self._option_findings()
        if self.directors.keepalived:
            yield from election_findings(site, name, directors, self.vrrp, services)
        known = all(node in site.nodes for node in directors)
        for server in self.real_servers:
            if server in directors:
                yield Finding(("real_servers", server), f"'{server}' is a director of this service already.")
            elif server in site.nodes:
                if not any(self.server_port in service.ports_on(server) for service in services.values()):
                    message = f"nothing serves port {self.server_port} on '{server}'; a service such as httpd has to."
                    yield Finding(("real_servers", server), message, needs_all=True)
                if known:
                    yield from self._path_findings(site, server, name, services)
        yield from self._director_findings(site)

    def _own_address_findings(self, site: Site, directors: Sequence[str],
                              services: Mapping[str, Service]) -> Iterator[Finding]:
        """Conflicts on a director whose own address is a VIP: the balancer takes what is sent there."""
        for node in directors:
            own = next((vip for vip in self.vips if node in site.nodes
                        and vip in site.nodes[node].addresses.values()), None)
            if own and SSH_PORT in self.ports:
                yield Finding(("port",), f"port {SSH_PORT} of {own} is for SSH to '{node}' itself; give the service a "
                                         "VIP of its own.")
            for name, service in services.items():
                taken = service.ports_on(node) & set(self.ports)
                if own and taken:
                    yield Finding(("vip",), f"'{name}' serves port {min(taken)} on '{node}', and {own} is that node's "
                                            "own address; the balancer would take all that is sent there. Give the "
                                            "service a VIP of its own.")

    def _neighbour_findings(self, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        for other_name, other in services.items():
            if other_name == name:
                break
            shared = [vip for vip in self.vips if vip in other.vips]
            if isinstance(other, Ipvs):
                if shared and other.directors != self.directors:
                    yield Finding(("vip",), f"{shared[0]} is the VIP of '{other_name}', which has other directors.")
                elif shared and other.vrrp != self.vrrp:
                    yield Finding(("vip",), f"{shared[0]} is the VIP of '{other_name}', which has another 'vrrp'.")
                elif shared and (set(self.ports) & set(other.ports) or self.virtual == other.virtual):
                    yield Finding(("vip",), f"{shared[0]} is the VIP of '{other_name}' already, on the same port.")
                if self.gateway and self.gateway == other.gateway and other.directors != self.directors:
                    yield Finding(("gateway",), f"{self.gateway} is the gateway of '{other_name}', which has other "
                                                "directors.")
                if other.directors != self.directors and (self.gateway in other.vips or other.gateway in self.vips):
                    yield Finding(("vip",), f"this service and '{other_name}' use one address as a VIP and as a "
                                            "gateway, but have different directors.")
                if self.mark and other.mark and self.mark.number == other.mark.number:
                    yield Finding(("mark", "number"), f"the mark {self.mark.number} is that of '{other_name}' already.")
            elif taken := [address for address in self.floating if address in other.floating]:
                yield Finding(("vip",), f"{taken[0]} is the VIP of '{other_name}' already.")

    def _option_findings(self) -> Iterator[Finding]:
        if self.real_port not in (None, self.port) and self.forward != "nat":
            how = "direct routing changes nothing but the MAC address" if self.forward == "dr" else \
                "tunnels carry the packet as it is"
            yield Finding(("real_port",), f"port {self.port} cannot become {self.real_port}: {how}; "
                                          "'forward: nat' can.")
        if self.real_port and self.table_port(self.port) == 0:
            yield Finding(("real_port",), "a service on several ports cannot map them to another one.")
        for option in ("gateway", "snat"):
            if getattr(self, option) and self.forward != "nat":
                yield Finding((option,), f"'{option}' is for 'forward: nat', where replies pass the director.")
        if self.vrrp != Options() and not self.directors.keepalived:
            yield Finding(("vrrp",), "'vrrp' is for directors with keepalived.")
        if self.persistence and self.persistence.per == "mark" and not self.mark:
            yield Finding(("persistence", "per"), "persistence per mark needs a 'mark'.")
        if self.persistence and self.persistence.per != "mark" and self.mark:
            yield Finding(("persistence", "per"), "a service with a 'mark' is persistent per mark.")

    def _director_findings(self, site: Site) -> Iterator[Finding]:
        network = site.network_of(self.vip)
        for position, node in enumerate(self.directors.nodes):
            if network and node in site.nodes and network not in site.nodes[node].addresses:
                yield Finding(("directors", self.directors.kind, position),
                              f"'{node}' is not on '{network}', the VIP's segment.")
        if self.forward != "nat":
            return
        if self.gateway is None and len(self.directors.nodes) > 1:
            yield Finding(("directors",), "with several directors the real servers' gateway has to float as well; "
                                          "'gateway' is missing.")
        if self.gateway and self.directors.ipvsadm:
            director = self.directors.nodes[0]
            if director in site.nodes and self.gateway not in site.nodes[director].addresses.values():
                yield Finding(("gateway",), f"{self.gateway} is not an address of the director '{director}', which "
                                            "the real servers' replies have to pass.")
        elif self.gateway:
            yield from (finding._replace(location=("gateway",)) for finding in vip_findings(
                site.model_copy(update={"nodes": {name: node for name, node in site.nodes.items()
                                                  if name not in site.clients()}}), self.gateway))

    def _path_findings(self, site: Site, server: str, name: str, services: Mapping[str, Service]) -> Iterator[Finding]:
        at = ("real_servers", server)
        network = self.servers_network(site, server)
        vip_network = site.network_of(self.vip)
        if vip_network is None:
            return
        if self.forward == "dr" and network is None:
            yield Finding(at, f"'{server}' is not on '{vip_network}', the VIP's segment; direct routing only changes "
                              "the destination MAC address, so all have to share one segment.")
        if self.forward == "tun" and network and not (
                all(reaches(site, services, node, network) for node in self.directors.nodes)
                and reaches(site, services, server, vip_network)):
            yield Finding(at, f"'{server}' and the directors share no network, and no router connects them.")
        if self.forward != "nat":
            return
        if network is None:
            yield Finding(at, f"'{server}' is on no network that all directors are on.")
            return
        for client in site.clients():
            for shared in set(site.nodes[client].addresses) & set(site.nodes[server].addresses):
                yield Finding(at, f"'{server}' is on '{shared}' beside the client '{client}'; its replies would "
                                  "bypass the director, and the client would reject them.")
        if self.gateway and site.network_of(self.gateway) != network:
            yield Finding(at, f"'{server}' is not on the network of its gateway {self.gateway}.")
        for other_name, other in services.items():
            if other_name == name:
                break
            if isinstance(other, Ipvs) and server in other.real_servers:
                gateways = other.server_gateway(site, server), self.server_gateway(site, server)
                if gateways[0] and gateways[0] != gateways[1]:
                    yield Finding(at, f"'{other_name}' makes {gateways[0]} the gateway of '{server}'; it cannot be "
                                      f"{gateways[1]} as well, which this service's replies have to pass.")

    # ---- Steps ----------------------------------------------------------------------------------------------

    @override
    def placements(self, site: Site, name: str, services: Mapping[str, Service]) -> Iterator[Placement]:
        vip_network = site.network_of(self.vip)
        if vip_network is None:
            raise ValueError(f"the VIP {self.vip} is in no network")
        vips = [str(vip) for vip in self.vips]
        for server in self.real_servers:
            yield from self._server_placements(site, server, vips, vip_network)
        if self.forward == "tun":
            for service in services.values():
                if isinstance(service, Router):
                    yield Placement(service.node, "ipvs/rp-filter")
        for director in self.directors.nodes:
            interface = site.interface(director, vip_network)
            if self.forward == "nat":
                yield Placement(director, "ipvs/forward")
            if self.snat:
                inside = {self.servers_network(site, server) for server in self.real_servers}
                yield Placement(director, "ipvs/snat", {
                    "subnets": sorted(str(site.networks[network].subnet) for network in inside if network),
                    "interface": interface, "address": str(site.nodes[director].addresses[vip_network])})
            if self.mark:
                yield Placement(director, "ipvs/mark", {"vips": vips, "ports": self.ports, "mark": self.mark.number})
            table = self._table(site, services)
            if self.directors.keepalived:
                yield Placement(director, "ipvs/keepalived", {
                    **table, **self._elections(site, name, director, services)})
                continue
            floating = [str(vip) for vip in self.vips if vip not in site.nodes[director].addresses.values()]
            if floating:
                yield Placement(director, "ipvs/vip", {"vips": floating, "interface": interface})
            yield Placement(director, "ipvs/rules", table)
            if self.check:
                yield Placement(director, "ipvs/healthcheck", table)

    def _server_placements(self, site: Site, server: str, vips: list[str], vip_network: str) -> Iterator[Placement]:
        if self.forward == "nat":
            yield Placement(server, "ipvs/gateway", {"gateway": str(self.server_gateway(site, server))})
            return
        if vip_network in site.nodes[server].addresses:
            yield Placement(server, "ipvs/arp")
        if self.forward == "dr":
            yield Placement(server, "ipvs/vip-lo", {"vips": vips})
        else:
            yield Placement(server, "ipvs/rp-filter")
            yield Placement(server, "ipvs/vip-tunl", {"vips": vips})

    def _table(self, site: Site, services: Mapping[str, Service]) -> dict[str, Any]:
        real_port = self.table_port(self.server_port)
        port = self.table_port(self.port)
        # keepalived 1.3.5 exits if the port is missing; 0 is every port, as in the kernel's table.
        virtual = f"fwmark {self.mark.number}" if self.mark else f"{self.vip} {port}"
        return {
            "virtual": self.virtual, "virtual_server": virtual,
            "scheduler": self.scheduler,
            "persistence": self.persistence.timeout if self.persistence else None,
            "flag": _FLAGS[self.forward], "kind": _KINDS[self.forward],
            "servers": [{"name": server, "address": str(self.server_address(site, server)), "weight": weight}
                        for server, weight in self.real_servers.items()],
            "real_port": real_port, "check_port": self.server_port,
            "check": self.health.model_dump() if self.health else None,
            "delay_before_retry": DELAY_BEFORE_RETRY,
            "host": host_at(list(self.real_servers), self.server_port, services),
        }

    def _groups(self, name: str, services: Mapping[str, Service]) -> list[tuple[int, list[IPv4Address]]]:
        """The ids and addresses of the virtual routers of this service, without addresses of earlier services."""
        if not self.directors.keepalived:
            return []
        earlier: list[IPv4Address] = []
        for other_name, other in services.items():
            if other_name == name:
                break
            if isinstance(other, Ipvs):
                earlier += [*other.vips, *([other.gateway] if other.gateway else [])]
        outside, inside = router_ids(name, services, self.vrrp)
        groups = [(outside, [vip for vip in self.vips if vip not in earlier]),
                  (inside, [self.gateway] if self.gateway and self.gateway not in earlier else [])]
        return [(router_id, addresses) for router_id, addresses in groups if addresses]

    def _elections(self, site: Site, name: str, director: str, services: Mapping[str, Service]) -> dict[str, Any]:
        nodes = self.directors.nodes
        return {
            **election(nodes, director, self.vrrp),
            "instances": [instance(site, nodes, director, addresses, self.vrrp, router_id)
                          for router_id, addresses in self._groups(name, services)],
        }

    @override
    def routers(self, site: Site, name: str, services: Mapping[str, Service]) -> Sequence[tuple[str, int]]:
        return [(network, router_id) for router_id, addresses in self._groups(name, services)
                if (network := site.network_of(addresses[0]))]

    @override
    def frontends(self, services: Mapping[str, Service], timing: Timing) -> Sequence[Frontend]:
        nodes = self.directors.nodes
        gateway = (self.gateway,) if self.gateway and self.directors.keepalived else ()
        return (Frontend(self.vip, self.port, tuple(nodes),
                         host=host_at(list(self.real_servers), self.server_port, services),
                         failover=failover("ipvs/keepalived", nodes, self.vrrp, timing, bool(gateway)),
                         together=gateway),)
