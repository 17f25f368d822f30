"""The networks and nodes of a lab, on which services are placed. Pure."""

from ipaddress import IPv4Address

from pydantic import BaseModel, ConfigDict, Field

from labctl.base.types import Address, Flag, Model, Name, Number, Subnet
from labctl.language.impair import Impair

MAX_NETWORKS = 8
MAX_NODES = 64


class Network(Model):
    """A host-only Ethernet segment: no DHCP and no uplink."""

    subnet: Subnet
    host: Address | None = None
    """The physical machine's address on this network; None if it has none."""
    impair: Impair | None = None
    """What each packet suffers on its way from one node to another."""


class Node(BaseModel):
    """A virtual machine. Every key that is not a field below is a network with the node's address on it."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)
    __pydantic_extra__: dict[str, Address] = Field(init=False)

    memory: Number | None = Field(default=None, ge=128, le=65536)
    """In MiB; None for the guest's default."""
    cpus: Number = Field(default=1, ge=1, le=16)
    client: Flag = False
    """Whether checks run from this node; they also run from a node called `client`."""

    @property
    def addresses(self) -> dict[str, IPv4Address]:
        """Network name to address, in the order of the file: the first is eth0."""
        return self.__pydantic_extra__


class Site(Model):
    """Networks and nodes."""

    networks: dict[Name, Network] = Field(min_length=1, max_length=MAX_NETWORKS)
    nodes: dict[Name, Node] = Field(min_length=1, max_length=MAX_NODES)

    def network_of(self, address: IPv4Address) -> str | None:
        """The name of the network whose subnet holds `address`."""
        return next((name for name, network in self.networks.items() if address in network.subnet), None)

    def interface(self, node: str, network: str) -> str:
        """The name of a node's network interface (eth0, eth1 … in the order of the file)."""
        return f"eth{list(self.nodes[node].addresses).index(network)}"

    def address_from(self, asker: str, node: str) -> IPv4Address | None:
        """A node's address on a network that it shares with `asker`; None if they share none."""
        return next((address for network, address in self.nodes[node].addresses.items()
                     if network in self.nodes[asker].addresses), None)

    def clients(self) -> list[str]:
        """The nodes that checks run from."""
        return [name for name, node in self.nodes.items() if node.client or name == "client"]
