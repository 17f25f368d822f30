"""The way of one request: what was captured at all nodes is joined into hops. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import chain
from math import inf

from labctl.observe.packet import Packet
from labctl.plan.plan import Plan

Server = tuple[IPv4Address, int]
"""Where a proxy passes requests on to."""
_MOST_HOPS = 64
"""A packet that goes round and round has lived so long by default."""


@dataclass(frozen=True)
class Sighting:
    """A packet at an interface of a node. All times are of one clock."""

    time: float
    node: str
    network: str
    packet: Packet


@dataclass(frozen=True)
class Crossing:
    """A packet on the wire, from the node that it left to the one that it arrived at, if it did."""

    left: Sighting
    arrived: Sighting | None


@dataclass(frozen=True)
class Exchange:
    """A request on one connection and the answer to it; and what the node that got it asked others for."""

    request: Sequence[Crossing]
    answer: Sequence[Crossing] = ()
    inner: Sequence["Exchange"] = ()

    @property
    def end(self) -> Sighting | None:
        """The request where it came to its end; None if it got lost on a wire, or never left."""
        return self.request[-1].arrived if self.request else None

    @property
    def came_back(self) -> bool:
        """Whether the answer got to where the request came from."""
        arrived = self.answer[-1].arrived if self.answer else None
        return arrived is not None and arrived.node == self.request[0].left.node

    @property
    def is_lost(self) -> bool:
        """Whether a packet left for somewhere and did not arrive."""
        return any(crossing.arrived is None for crossing in (*self.request, *self.answer))

    def all(self) -> Iterator["Exchange"]:
        """This one, and all that follow from it."""
        yield self
        for each in self.inner:
            yield from each.all()


@dataclass
class Wires:
    """All that was seen at the interfaces of a lab's nodes, in the order of time."""

    plan: Plan
    sightings: Sequence[Sighting]
    left: list[Sighting] = field(init=False)
    arrived: list[Sighting] = field(init=False)

    def __post_init__(self) -> None:
        macs = {(node.name, each.network): each.mac for node in self.plan.nodes for each in node.interfaces}
        in_order = sorted(self.sightings, key=lambda each: each.time)
        self.left = [each for each in in_order if each.packet.source_mac == macs[each.node, each.network]]
        self.arrived = [each for each in in_order if each.packet.target_mac == macs[each.node, each.network]]
        self._used: set[int] = set()

    def exchange(self, client: str, port: int, token: bytes, servers: Mapping[str, Collection[Server]]) -> Exchange:
        """Follow the request that left a client from a local port, in a connection and in those that proxies open.

        The token is in the request and in what proxies make of it. `servers` are those of nodes that are proxies.
        """
        mine = [each for each in self.left if each.node == client and each.packet.protocol == "tcp"
                and each.packet.source_port == port]
        return self._exchange(_request(mine), token, servers)

    def _exchange(self, first: Sighting | None, token: bytes, servers: Mapping[str, Collection[Server]]) -> Exchange:
        request = self._follow(first)
        end = request[-1].arrived if request else None
        if end is None:
            return Exchange(request)
        reply = self._reply(end)
        asked = self._asked(end, reply, token, servers.get(end.node, ()))
        return Exchange(request, self._follow(reply), [self._exchange(each, token, servers) for each in asked])

    def _follow(self, left: Sighting | None) -> list[Crossing]:
        """The way of a packet over all nodes that pass it on, whatever they make of its addresses."""
        way: list[Crossing] = []
        while left is not None and len(way) < _MOST_HOPS:
            self._used.add(id(left))
            arrived = self._arrival(left)
            way.append(Crossing(left, arrived))
            left = self._onward(arrived) if arrived else None
        return way

    def _arrival(self, left: Sighting) -> Sighting | None:
        return next((each for each in self.arrived if each.time >= left.time and each.network == left.network
                     and each.packet == left.packet and each.node != left.node), None)

    def _onward(self, arrived: Sighting) -> Sighting | None:
        return next((each for each in self.left if each.node == arrived.node and each.time >= arrived.time
                     and id(each) not in self._used and _segment(each.packet) == _segment(arrived.packet)), None)

    def _reply(self, end: Sighting) -> Sighting | None:
        """A node's answer to a request; not that a payload has arrived, nor that it hangs up after the other side."""
        source, source_port, target, target_port = end.packet.connection
        back = (target, target_port, source, source_port)
        hung_up = next((each.time for each in self.arrived if each.node == end.node and "FIN" in each.packet.flags
                        and each.packet.connection == end.packet.connection), inf)
        return next((each for each in self.left if each.node == end.node and each.time >= end.time
                     and each.packet.protocol == "tcp" and each.packet.connection == back
                     and (each.packet.payload or "RST" in each.packet.flags or not end.packet.payload
                          or ("FIN" in each.packet.flags and each.time < hung_up))), None)

    def _asked(self, end: Sighting, reply: Sighting | None, token: bytes,
               servers: Collection[Server]) -> list[Sighting]:
        """The first packets of what a node asks others for because of a request: by the token, or else by the time."""
        later = [each for each in self.left if each.node == end.node and each.time >= end.time
                 and each.packet.protocol == "tcp" and id(each) not in self._used]
        asked = {each.packet.connection: each for each in reversed(later) if token in each.packet.payload}
        if asked or not end.packet.payload:
            return sorted(asked.values(), key=lambda each: each.time)
        talk = {each.packet.connection for each in later if each.packet.payload}  # As a proxy's checks do.
        tried = [each for each in later if each.packet.flags == {"SYN"} and each.packet.connection not in talk
                 and (each.packet.target, each.packet.target_port) in servers
                 and (reply is None or each.time <= reply.time)]
        return list({each.packet.connection: each for each in reversed(tried)}.values())

    # ---- ARP and errors ------------------------------------------------------------------------------------------

    def claims(self) -> dict[IPv4Address, set[str]]:
        """The MAC addresses that were said to have an address, in answers to ARP."""
        found: dict[IPv4Address, set[str]] = {}
        for each in self.left:
            packet = each.packet
            if packet.protocol == "arp" and packet.says == "reply" and packet.source:
                found.setdefault(packet.source, set()).add(packet.claims)
        return found

    def unanswered(self, node: str) -> list[IPv4Address]:
        """The addresses that a node asked for by ARP, and that nobody said to have."""
        asked = [each.packet.target for each in self.left if each.node == node and each.packet.protocol == "arp"
                 and each.packet.says == "request" and each.packet.source != each.packet.target]
        return [address for address in dict.fromkeys(asked) if address and address not in self.claims()]

    def errors(self, exchange: Exchange) -> list[Sighting]:
        """The ICMP errors about an exchange, as they left."""
        known = {crossing.left.packet.connection for crossing in chain(exchange.request, exchange.answer)}
        return [each for each in self.left if each.packet.about and each.packet.about.connection in known]


def _request(sightings: Iterable[Sighting]) -> Sighting | None:
    """The packet that stands for a request: its first one with a payload, or else the first of the connection."""
    found = list(sightings)
    return next((each for each in found if each.packet.payload), found[0] if found else None)


def _segment(packet: Packet) -> tuple[object, ...]:
    """What stays of a TCP segment whatever is done to its addresses on the way."""
    return packet.protocol, packet.seq, packet.ack, packet.flags, packet.payload
