"""A lab at one moment, put together from what is seen of it and what its nodes tell. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import zip_longest
from typing import Literal

from pydantic import AwareDatetime

from labctl.base.progress import Gate
from labctl.base.types import Model
from labctl.labs.journal import Fault
from labctl.labs.readiness import say_units
from labctl.language.services import Frontend, Ipvs
from labctl.observe.events import Event, has_now
from labctl.observe.outage import Timeline
from labctl.observe.ticker import Ticker, by_second
from labctl.plan.plan import Plan, PlannedNode
from labctl.plan.seed import CONFIGURED

SECONDS = 60
"""How far back the counts of answers go"""
_SERVING_SECONDS = 2
_END = "=end="
_VIRTUAL = re.compile(r"(TCP|UDP|FWM)\s+(\S+)\s")
_REAL = re.compile(r"\s*->\s+([\d.]+):\d+\s+(\S.*)")


class NodeView(Model):
    """A node."""

    name: str
    state: str
    """As in `labctl status`"""
    answers: bool | None
    """Whether it answers SSH; None if it was not asked yet"""
    gate: Gate | None
    """The last gate that it passes now; None if that is not known, or not to be told"""
    lacks: dict[str, str]
    """Units that should be active and are not, and what they are"""


class VipView(Model):
    """An address that clients use."""

    address: IPv4Address
    holders: list[str]
    silent: list[str]
    """Nodes that may hold it, run, and do not say"""


class RowView(Model):
    """A real server in a director's table."""

    director: str
    current: bool
    """Whether the director has the service's address"""
    service: str
    server: str
    weight: int | None
    """None for a server that is not in the table"""
    active: int
    inactive: int
    connections: int
    """New ones per second, as the kernel estimates it over the last seconds"""
    packets: int
    """Incoming ones per second"""


class AnswersView(Model):
    """What a server has answered."""

    server: str
    total: int
    """Since this is looked at"""
    seconds: list[int]
    """In each of the last seconds, oldest first"""


class Transition(Model):
    """Something that happened."""

    at: AwareDatetime
    text: str


class Snapshot(Model):
    """A lab at one moment."""

    version: Literal[1] = 1
    lab: str
    title: str
    at: AwareDatetime
    address: IPv4Address
    port: int
    rate: float
    """Requests per second that the client makes"""
    serves: bool
    """Whether all nodes have passed all gates, and all requests of the last seconds were answered"""
    exercise: bool
    asks: bool
    """Whether the client has been heard of lately"""
    silent: float | None
    """The seconds since the last answer, where nobody answers"""
    nodes: list[NodeView]
    vips: list[VipView]
    table: list[RowView]
    answers: list[AnswersView]
    lost: dict[str, int]
    """How many requests, and how they were lost"""
    lost_seconds: list[int]
    faults: list[Fault]
    transitions: list[Transition]
    """The last ones, oldest first"""


@dataclass(frozen=True)
class Real:
    """A real server in the kernel's table, as ipvsadm prints it."""

    virtual: str
    address: IPv4Address
    weight: int
    active: int
    inactive: int
    connections: int
    packets: int


@dataclass(frozen=True)
class Said:
    """What a node says of itself."""

    configured: bool
    units: Mapping[str, str]
    """The state of each unit that its done steps need"""
    addresses: frozenset[tuple[str, str]]
    """Interfaces and addresses, of a node that may hold a VIP"""
    table: Sequence[Real]
    """Of a director"""


@dataclass(frozen=True)
class Seen:
    """All that a snapshot is made from."""

    at: AwareDatetime
    frontend: Frontend
    rate: float
    exercise: bool
    states: Mapping[str, str]
    said: Mapping[str, Said | None]
    """None for a node that does not answer; nodes that were not asked are missing"""
    passed: Mapping[str, Gate]
    """The gates that nodes on their way up have passed, as whoever waits for them says"""
    timeline: Timeline
    events: Sequence[Event]
    ticker: Ticker
    faults: Sequence[Fault]
    transitions: Sequence[Transition]


# ---- What nodes are asked ---------------------------------------------------------------------------------------


def question(plan: Plan, node: PlannedNode) -> str:
    """A shell script that prints what `hear` understands."""
    holds = any(node.name in frontend.holders for frontend in plan.frontends())
    directs = any(node.name in service.directors.nodes for service in _balancers(plan).values())
    return f"; echo {_END}; ".join([
        f"cat {CONFIGURED}", say_units(node) if node.units else "true", "ip -o -4 address" if holds else "true",
        "ipvsadm -Ln --nosort; ipvsadm -Ln --nosort --rate --exact" if directs else "true"])


def hear(plan: Plan, text: str) -> Said:
    """What a node says; whatever it says, there is no error."""
    digest, units, addresses, table = (*text.split(f"{_END}\n"), "", "", "", "")[:4]
    names, _, states = units.partition("\n")
    lines = [line.split() for line in addresses.splitlines()]
    return Said(configured=digest.strip() == plan.digest,
                units=dict(zip_longest(names.split(), states.split()[:len(names.split())], fillvalue="unknown")),
                addresses=frozenset((words[1], words[3].partition("/")[0]) for words in lines if len(words) > 3),
                table=list(_reals(table)))


def _reals(listings: str) -> Iterator[Real]:
    """The rows that are in both listings: weights and connections, and rates."""
    virtual = ""
    loads: dict[tuple[str, str], list[int]] = {}
    rates: dict[tuple[str, str], list[int]] = {}
    for line in listings.splitlines():
        if match := _VIRTUAL.match(line):
            virtual = f"{match[1]} {match[2]}"
        elif (match := _REAL.match(line)) and virtual:
            words = match[2].split()
            numbers = [int(word) for word in words if word.isdecimal() and len(word) < 16]
            if len(words) == 4 and len(numbers) == 3:
                loads[virtual, match[1]] = numbers
            elif len(words) == len(numbers) == 5:
                rates[virtual, match[1]] = numbers
    for (virtual, address), (weight, active, inactive) in loads.items():
        connections, packets, *_ = rates.get((virtual, address), [0, 0])
        try:
            yield Real(virtual, IPv4Address(address), weight, active, inactive, connections, packets)
        except ValueError:
            continue


# ---- The snapshot -----------------------------------------------------------------------------------------------


def snapshot(plan: Plan, seen: Seen) -> Snapshot:
    """What a lab looks like."""
    counts, recent = by_second(seen.timeline, SECONDS), by_second(seen.timeline, _SERVING_SECONDS)
    lost = counts.pop("", [0] * SECONDS)
    nodes = [_node(node, seen) for node in plan.nodes]
    vips = list(_vips(plan, seen))
    serves = bool(recent) and "" not in recent and all(node.gate == "units" for node in nodes) \
        and all(len(vip.holders) == 1 for vip in vips)
    if serves:
        nodes = [node.model_copy(update={"gate": "serving"}) for node in nodes]
    if seen.exercise:
        nodes = [node.model_copy(update={"gate": None, "lacks": {}}) for node in nodes]
    since = seen.ticker.silent_since
    return Snapshot(
        lab=plan.lab, title=plan.topology.title, at=seen.at, address=seen.frontend.address, port=seen.frontend.port,
        rate=seen.rate, serves=serves, exercise=seen.exercise, asks=bool(recent),
        silent=None if since is None else round(seen.timeline.end - since, 1), nodes=nodes, vips=vips,
        table=list(_table(plan, seen, {vip.address: vip.holders for vip in vips})),
        answers=[AnswersView(server=server, total=seen.ticker.servers[server],
                             seconds=counts.get(server, [0] * SECONDS))
                 for server in sorted({*seen.ticker.servers, *counts})],
        lost=dict(seen.ticker.lost), lost_seconds=lost, faults=list(seen.faults), transitions=list(seen.transitions))


def _node(node: PlannedNode, seen: Seen) -> NodeView:
    state = seen.states.get(node.name, "?")
    said = seen.said.get(node.name) if state == "running" else None
    lacks = {unit: what for unit, what in said.units.items() if what != "active"} if said else {}
    gate: Gate | None = None
    if said:
        gate = "ssh" if not said.configured else "configured" if lacks else "units"
    elif state == "running":
        gate = seen.passed.get(node.name)
    answers = None if state == "running" and node.name not in seen.said else bool(said)
    return NodeView(name=node.name, state=state, answers=answers, gate=gate, lacks=lacks)


def _vips(plan: Plan, seen: Seen) -> Iterator[VipView]:
    for frontend in {each.address: each for each in plan.frontends()}.values():
        # What a node tells as it happens is newer than its answer to a question.
        live = has_now(seen.events, frontend.address) if frontend.address == seen.frontend.address else {}
        holders, silent = [], []
        for name in frontend.holders:
            said = seen.said.get(name)
            wanted = (plan.node(name).interface_to(frontend.address).name, str(frontend.address))
            if seen.states.get(name) != "running":
                continue
            if live.get(name, bool(said) and wanted in said.addresses if said else False):
                holders.append(name)
            elif said is None:
                silent.append(name)
        yield VipView(address=frontend.address, holders=holders, silent=silent)


def _balancers(plan: Plan) -> dict[str, Ipvs]:
    return {name: service for name, service in plan.topology.services.items() if isinstance(service, Ipvs)}


def _table(plan: Plan, seen: Seen, holders: Mapping[IPv4Address, Sequence[str]]) -> Iterator[RowView]:
    """The rows of each director that says what it has, and those that are missing."""
    for name, service in _balancers(plan).items():
        virtual = f"FWM {service.mark.number}" if service.mark else \
            f"TCP {service.vip}:{service.table_port(service.port)}"
        names = {service.server_address(plan.topology, server): server for server in service.real_servers}
        for director in service.directors.nodes:
            said = seen.said.get(director)
            if not said or seen.states.get(director) != "running":
                continue
            rows = {row.address: row for row in said.table if row.virtual == virtual}
            for address in dict.fromkeys([*names, *rows]):
                row = rows.get(address)
                yield RowView(
                    director=director, current=director in holders.get(service.vip, ()), service=name,
                    server=names.get(address, str(address)), weight=row.weight if row else None,
                    active=row.active if row else 0, inactive=row.inactive if row else 0,
                    connections=row.connections if row else 0, packets=row.packets if row else 0)
