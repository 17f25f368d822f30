"""What each hop of a request did to it, in words, and the step that makes it so. Pure."""

from collections.abc import Iterator, Sequence
from typing import Literal

from labctl.base.types import Model
from labctl.language.services import Ipvs, Router
from labctl.observe.packet import Packet, summary
from labctl.observe.trace import Crossing, Exchange, Sighting
from labctl.plan.plan import Plan

_BALANCES = {"dr": "balances by direct routing", "nat": "balances by NAT", "tun": "balances by tunnels"}
_ONLY_MAC = "destination MAC only"


class Note(Model):
    """What the node that a packet leaves did to it, and why."""

    text: str
    rewritten: tuple[str, ...] = ()
    step: str | None = None
    """NODE/STEP"""


class Hop(Model):
    """A packet on the wire, from one node to the next."""

    direction: Literal["request", "answer"]
    connection: int
    """1 is the client's; each that a proxy opens has the next number."""
    sender: str
    receiver: str | None
    """None where it got lost on the way."""
    network: str
    milliseconds: float
    """Since the request left the client"""
    source: str
    target: str
    source_mac: str
    target_mac: str
    ttl: int
    tunnel: tuple[str, str] | None
    """The addresses of the packet around it."""
    carries: str
    note: Note | None


class Reason(Model):
    """What may be wrong, and the step that would be to blame."""

    text: str
    step: str | None = None


class Trouble(Model):
    """Where a request got no further, and why that may be."""

    node: str
    message: str
    reasons: tuple[Reason, ...] = ()


class Trace(Model):
    """A request and its answer, from node to node."""

    lab: str
    url: str
    client: str
    status: int
    """Of HTTP; 0 where there was no answer."""
    milliseconds: float | None
    """From the request to its answer, at the client"""
    hops: tuple[Hop, ...]
    remarks: tuple[str, ...] = ()
    """What was seen beside, and is wrong."""
    trouble: Trouble | None = None


def hops(exchange: Exchange, plan: Plan) -> list[Hop]:
    """The hops of a request, of those that it led to, and of the answers, in that order."""
    if not exchange.request:
        return []
    began = exchange.request[0].left.time
    numbers = {id(each): number for number, each in enumerate(exchange.all(), start=1)}
    found = []
    for direction, of, crossing, before in _ways(exchange, None):
        packet = crossing.left.packet
        found.append(Hop(
            direction=direction, connection=numbers[id(of)], sender=crossing.left.node,
            receiver=crossing.arrived.node if crossing.arrived else None, network=crossing.left.network,
            milliseconds=round(1000 * (crossing.left.time - began), 2),
            source=f"{packet.source}:{packet.source_port}", target=f"{packet.target}:{packet.target_port}",
            source_mac=packet.source_mac, target_mac=packet.target_mac, ttl=packet.ttl,
            tunnel=(str(packet.tunnel[0]), str(packet.tunnel[1])) if packet.tunnel else None,
            carries=summary(packet), note=_note(crossing.left, before, of, direction, plan)))
    return found


_Way = tuple[Literal["request", "answer"], Exchange, Crossing, Sighting | None]


def _ways(exchange: Exchange, before: Sighting | None) -> Iterator[_Way]:
    """All crossings, each with what its sender had received before: the packet that it passes on."""
    for crossing in exchange.request:
        yield "request", exchange, crossing, before
        before = crossing.arrived
    for inner in exchange.inner:
        yield from _ways(inner, None)
    before = None
    for crossing in exchange.answer:
        yield "answer", exchange, crossing, before
        before = crossing.arrived


def _note(left: Sighting, before: Sighting | None, of: Exchange, direction: str, plan: Plan) -> Note | None:
    node, packet = left.node, left.packet
    if before is None:
        return _first(node, packet, of, direction, plan)
    rewritten = tuple(_rewritten(before.packet, packet))
    for name, service in plan.topology.services.items():
        if isinstance(service, Ipvs) and node in service.directors.nodes:
            step = step_of(plan, node, ("ipvs/keepalived", "ipvs/rules"), name)
            if direction == "request" and before.packet.target in service.vips:
                only_mac = [_ONLY_MAC, *(each for each in rewritten if each.startswith("TTL"))]
                return Note(text=_BALANCES[service.forward], step=step,
                            rewritten=tuple(only_mac) if service.forward == "dr" else rewritten)
            if direction == "answer" and packet.source in service.vips:
                return Note(text="puts the VIP back", rewritten=rewritten, step=step)
    for name, service in plan.topology.services.items():
        if isinstance(service, Router) and node == service.node:
            return Note(text="routes", rewritten=rewritten, step=step_of(plan, node, ("router/forward",), name))
    return Note(text="passes it on", rewritten=rewritten,
                step=step_of(plan, node, ("ipvs/forward", "router/forward")))


def _first(node: str, packet: Packet, of: Exchange, direction: str, plan: Plan) -> Note | None:
    """What is to be said of the node that a packet comes from in the first place."""
    if direction == "request" and plan.node(node).client:
        return None
    if direction == "request":
        return Note(text="is a proxy: a connection of its own", step=proxy_step(plan, node))
    if "RST" in packet.flags:
        return Note(text="refuses the connection")
    if "FIN" in packet.flags and not packet.payload:
        return Note(text="hangs up without an answer")
    if of.inner:  # What it says, it has of them.
        return Note(text="passes the answer on", step=proxy_step(plan, node))
    return next(_as_real_server(node, packet, plan), Note(text="answers"))


def _as_real_server(node: str, packet: Packet, plan: Plan) -> Iterator[Note]:
    for name, service in plan.topology.services.items():
        if not isinstance(service, Ipvs) or node not in service.real_servers:
            continue
        if service.forward != "nat" and packet.source in service.vips:
            where, kind = ("tunl0", "ipvs/vip-tunl") if service.forward == "tun" else ("lo", "ipvs/vip-lo")
            yield Note(text=f"answers as the VIP, which it has on {where}", step=step_of(plan, node, (kind,), name))
        if service.forward == "nat" and packet.source == service.server_address(plan.topology, node):
            yield Note(text="answers by its gateway, the director", step=step_of(plan, node, ("ipvs/gateway",), name))


def proxy_step(plan: Plan, node: str) -> str | None:
    """The step that makes a node a proxy."""
    return step_of(plan, node, ("haproxy/haproxy", "nginx-vhosts/vhosts"))


def step_of(plan: Plan, node: str, kinds: Sequence[str], service: str | None = None) -> str | None:
    """The step of a node that is of one of these kinds, of the service if it has one of its own."""
    steps = [step for step in plan.node(node).steps if step.kind in kinds]
    steps.sort(key=lambda step: step.service != service)
    return f"{node}/{steps[0].name}" if steps else None


def _rewritten(before: Packet, after: Packet) -> Iterator[str]:
    changed = False
    if before.tunnel != after.tunnel:
        changed = True
        yield f"wrapped in another packet, {after.tunnel[0]} > {after.tunnel[1]}" if after.tunnel else "unwrapped"
    for what, old, new in (
            ("destination address", (before.target, before.target_port), (after.target, after.target_port)),
            ("source address", (before.source, before.source_port), (after.source, after.source_port))):
        if old != new:
            changed = True
            yield f"{what} {old[0]}:{old[1]} > {new[0]}:{new[1]}"
    if not changed:
        yield "MAC addresses"
    if before.ttl != after.ttl:
        yield f"TTL {before.ttl} > {after.ttl}"
