"""Why a request gets no further: what its packets show, and what the node that saw it last says of itself. Pure."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from labctl.language.services import Ipvs
from labctl.observe.hops import Reason, Trouble, proxy_step, step_of
from labctl.observe.packet import Packet
from labctl.observe.trace import Crossing, Exchange, Sighting, Wires
from labctl.observe.wire import mac_to_node
from labctl.plan.plan import Plan

_PART = "== part"
_FILTERED = r"-P [A-Z]+ DROP|-j (DROP|REJECT)"


@dataclass(frozen=True)
class Facts:
    """What a node says of itself."""

    has_address: bool
    """The one that the packet is addressed to"""
    listens: bool
    """Somebody does at the port."""
    route: str
    """To where the packet came from; empty where there is none"""
    forwards: bool
    filters: Sequence[str]
    """Rules of a packet filter by which packets get lost"""
    table: str
    """What IPVS has for the address and port"""
    reverse_filter: bool
    """Whether packets are dropped that come in by another interface than answers would take"""


def questions(packet: Packet, plan: Plan) -> str:
    """The shell script that asks a node for the facts about a packet that arrived there."""
    address, port = packet.target, packet.target_port
    commands = [
        f"ip -o -4 address show to {address}",
        f"ss -Htln sport = :{port}",
        f"ip route get {packet.source} 2>/dev/null",
        "cat /proc/sys/net/ipv4/ip_forward",
        f"{plan.guest.facts['iptables']} -S 2>/dev/null | grep -E -- {shlex.quote(_FILTERED)}",
        "ipvsadm -Ln 2>/dev/null",
        "cat /proc/sys/net/ipv4/conf/all/rp_filter /proc/sys/net/ipv4/conf/tunl0/rp_filter 2>/dev/null",
    ]
    return f"; echo '{_PART}'; ".join(f"{{ {command}; }}" for command in commands) + "; true"


def facts(said: str) -> Facts:
    """The facts in what a node says to that."""
    parts = [part.strip() for part in said.split(_PART)]
    address, listens, route, forwards, filters, table, reverse = (parts + [""] * 7)[:7]
    return Facts(bool(address), bool(listens), route.partition("\n")[0], forwards == "1",
                 filters.splitlines(), table, bool(set(reverse.split()) - {"0"}))


def last_seen(exchange: Exchange) -> tuple[Exchange, Sighting | None]:
    """The exchange in which a request got no further, and the packet that arrived last; None where none did.

    Of a request that got its answer it is the last one that went wrong behind it, if any did.
    """
    broken = next((each for each in reversed(list(exchange.all())) if not each.came_back), exchange)
    crossings = [*broken.request, *broken.answer]
    arrived = [crossing.arrived for crossing in crossings if crossing.arrived]
    return broken, arrived[-1] if arrived else None


def trouble(wires: Wires, exchange: Exchange, address: IPv4Address, client: str, status: int,
            states: Mapping[str, str], known: Facts | None) -> Trouble | None:
    """What went wrong with a request to an address; None where it got its answer.

    `states` are those of the nodes, for packets that got lost on the way to one; `known` are the facts of the node that
    saw it last, if that answers.
    """
    plan = wires.plan
    if not exchange.request:
        return _not_sent(wires, address, client)
    broken, seen = last_seen(exchange)
    lost = next((crossing for crossing in [*broken.request, *broken.answer] if crossing.arrived is None), None)
    if any("RST" in crossing.left.packet.flags for crossing in broken.answer):
        found = _refused(broken, plan, known)
    elif lost:
        found = _lost(lost, plan, states)
    elif not broken.came_back and seen:
        found = _silent(wires, broken, seen, known)
    elif broken.answer[-1].left.packet.connection[:2] != broken.request[0].left.packet.connection[2:]:
        found = _stranger(broken, plan)
    else:
        node = broken.answer[0].left.node
        what = (f"answers with {status}" if status else "begins to answer, and does not come to the end"
                if broken.answer[0].left.packet.payload else "hangs up without an answer")
        return None if 0 < status < 400 else Trouble(
            node=node, message=f"'{node}' {what}.", reasons=(
                Reason(text="its own logs say why", step=proxy_step(plan, node)),))
    return found


def _not_sent(wires: Wires, address: IPv4Address, client: str) -> Trouble:
    asked = wires.unanswered(client)
    if not asked:
        return Trouble(node=client, message=f"'{client}' sends nothing to {address}.",
                       reasons=(Reason(text=f"it has no route there, or a packet filter of its own; "
                                       f"'labctl exec {client} ip route get {address}' says which way it would take"),))
    holders = [node for frontend in wires.plan.frontends() if frontend.address == asked[0]
               for node in frontend.holders]
    reasons = [Reason(text=f"'{node}' should have the address and has it not, is off or unplugged",
                      step=step_of(wires.plan, node, ("ipvs/keepalived", "ipvs/vip", "vrrp/keepalived",
                                                    "heartbeat/heartbeat"))) for node in holders]
    return Trouble(node=client, message=f"'{client}' asks by ARP who has {asked[0]}, and nobody answers.",
                   reasons=tuple(reasons or [Reason(text="no node that runs has this address")]))


def _stranger(broken: Exchange, plan: Plan) -> Trouble:
    packet = broken.answer[-1].left.packet
    asked = broken.request[0].left.packet
    node = broken.answer[0].left.node
    return Trouble(node=node, message=f"The answer of '{node}' reaches '{broken.request[0].left.node}' from "
                   f"{packet.source}:{packet.source_port}, which had asked {asked.target}:{asked.target_port} and "
                   "knows nothing of it.",
                   reasons=(Reason(text=f"'{node}' does not answer by the way that the request came",
                                   step=step_of(plan, node, ("ipvs/gateway",))),))


def _refused(broken: Exchange, plan: Plan, known: Facts | None) -> Trouble:
    first = next(crossing.left for crossing in broken.answer if "RST" in crossing.left.packet.flags)
    node, port = first.node, first.packet.source_port
    message = f"'{node}' refuses the connection to {first.packet.source}:{port}."
    for name, service in plan.topology.services.items():
        if isinstance(service, Ipvs) and node in service.directors.nodes and first.packet.source in service.vips:
            return Trouble(node=node, message=message, reasons=(
                Reason(text=f"its IPVS table has nothing for {first.packet.source}:{port}, so it answers itself",
                       step=step_of(plan, node, ("ipvs/keepalived", "ipvs/rules"), name)),))
    steps = [step for name, service in plan.topology.services.items() if port in service.ports_on(node)
             for step in plan.node(node).steps if step.service == name and step.units]
    nobody = "nobody listens there" if known is None or not known.listens else "who listens there takes no more"
    return Trouble(node=node, message=message, reasons=tuple(
        [Reason(text=nobody, step=f"{node}/{step.name}") for step in steps] or [Reason(text=nobody)]))


def _lost(lost: Crossing, plan: Plan, states: Mapping[str, str]) -> Trouble:
    sender, mac = lost.left.node, lost.left.packet.target_mac
    receiver = mac_to_node(plan.nodes).get(mac)
    if receiver is None:
        return Trouble(node=sender, message=f"'{sender}' sends it to the MAC address {mac}, which is no node's.",
                       reasons=(Reason(text=f"what it remembers of ARP is out of date, or a stranger answered; 'labctl "
                                       f"exec {sender} ip neigh flush all' has it ask again"),))
    state = states.get(receiver, "off")
    reason = (f"'{receiver}' is {state}" if state != "running" else
              f"the link between the two is cut, or '{receiver}' is unplugged; 'labctl faults' shows what is broken on "
              "purpose")
    return Trouble(node=sender, message=f"It left '{sender}' for '{receiver}', and did not arrive there.",
                   reasons=(Reason(text=reason),))


def _silent(wires: Wires, broken: Exchange, seen: Sighting, known: Facts | None) -> Trouble:
    node, packet = seen.node, seen.packet
    answering = bool(broken.answer)
    what = "the answer" if answering else "the request"
    passes_on = answering or any(packet.target in service.vips and node in service.directors.nodes
                                 for service in wires.plan.topology.services.values() if isinstance(service, Ipvs))
    end = "did not pass it on" if passes_on else "did not answer"
    observed = [
        *(Reason(text=f"'{each.node}' says by ICMP: {each.packet.says}") for each in wires.errors(broken)),
        *(Reason(text=f"it asks by ARP who has {address}, and nobody answers{_whose(wires.plan, address)}")
          for address in wires.unanswered(node)),
    ]
    own = list(_own_reasons(wires.plan, node, packet, known, passes_on=passes_on)) if known else [
        Reason(text="it does not answer SSH either: it stands still or is unplugged")]
    reasons = [*observed, *own] or [Reason(
        text="its program has not answered in time, or a packet filter drops it", step=proxy_step(wires.plan, node))]
    return Trouble(node=node, message=f"'{node}' received {what} and {end}.", reasons=tuple(dict.fromkeys(reasons)))


def _own_reasons(plan: Plan, node: str, packet: Packet, known: Facts, *, passes_on: bool) -> Iterator[Reason]:
    said = False
    for name, service in plan.topology.services.items():
        if not isinstance(service, Ipvs):
            continue
        if node in service.directors.nodes and packet.target in service.vips and "->" not in \
                known.table.partition("RemoteAddress:Port")[2]:
            said = True
            yield Reason(text=f"its IPVS table has no real server for {packet.target}:{packet.target_port}",
                         step=step_of(plan, node, ("ipvs/keepalived", "ipvs/rules"), name))
        if node in service.real_servers and packet.target in service.vips:
            if not known.has_address:
                said = True
                yield Reason(text=f"it has no address {packet.target}",
                             step=step_of(plan, node, ("ipvs/vip-lo", "ipvs/vip-tunl"), name))
            if packet.tunnel and known.reverse_filter:
                said = True
                yield Reason(text="its reverse path filter drops what comes out of a tunnel",
                             step=step_of(plan, node, ("ipvs/rp-filter",), name))
        if node in service.real_servers and service.forward == "nat" and (
                gateway := service.server_gateway(plan.topology, node)) and f"via {gateway} " not in known.route:
            said = True
            yield Reason(text=f"it has no route back through {gateway}, the director"
                         + (f": '{known.route.strip()}'" if known.route else ""),
                         step=step_of(plan, node, ("ipvs/gateway",), name))
    if passes_on and not known.forwards and not known.has_address:
        said = True
        yield Reason(text="it passes on nothing that is not for itself: ip_forward is 0",
                     step=step_of(plan, node, ("ipvs/forward", "router/forward")))
    if not passes_on and not said and not known.route:
        yield Reason(text=f"it has no route to {packet.source}", step=step_of(plan, node, ("router/routes",)))
    for rule in known.filters:
        yield Reason(text=f"a packet filter there has the rule '{rule.strip()}'")


def _whose(plan: Plan, address: IPv4Address) -> str:
    return next((f": '{node.name}' is off or unplugged, or stands still" for node in plan.nodes
                 for each in node.interfaces if each.address == address), "")
