"""What nodes tell of an election and of the balancer's table: events, and who held an address when. Pure."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Literal, TypeAlias

from labctl.base.types import Model
from labctl.observe.clock import Clock
from labctl.observe.outage import Stretch

Kind: TypeAlias = Literal["vip", "vrrp", "heartbeat", "table", "node"]

# What keepalived writes of its instances: 1.3.5 `VRRP_Instance(web) Entering MASTER STATE`, 2.x `(web) Entering …`.
_VRRP = re.compile(r"\((?P<instance>[\w.-]+)\) (?:Entering|Transition to) (?P<state>MASTER|BACKUP|FAULT) STATE")
_FAREWELL = re.compile(r"\((?P<instance>[\w.-]+)\) [Ss]ent 0 priority|Backup received priority 0 advertisement")
# What heartbeat 3 writes.
_HEARTBEAT = (
    (re.compile(r"node (\S+?):? is dead"), "{} is dead"),
    (re.compile(r"Status update for node (\S+?): status (\w+)"), "{} is {}"),
    (re.compile(r"Acquiring resource group"), "takes the address"),
    (re.compile(r"Releasing resource group"), "gives the address up"),
)
_ROW = re.compile(r"(?P<service>\w+:[0-9A-F:]+)>(?P<address>[0-9A-F]{8}):(?P<port>[0-9A-F]{4})=(?P<weight>\d{1,10})")
TAKES = ("is MASTER", "takes the address")
"""What a node says before it has the address"""
_SAME_SECONDS = 0.2
LOST, FOUND = "lost", "found"
"""What is noted of the connection to a node in place of a line of it."""


class Event(Model):
    """Something that happened on a node."""

    at: float
    """Seconds from the zero of the timeline"""
    node: str
    kind: Kind
    text: str
    address: IPv4Address | None = None
    """Of a VIP that the node got or lost"""
    has: bool | None = None
    """Whether it has it since, or at the latest since then"""
    late: bool = False
    """The node had the address when it was first asked."""

    @property
    def sentence(self) -> str:
        """What happened, for people."""
        return f"{self.node}: {self.text}" if self.kind == "table" else f"{self.node} {self.text}"


Heard: TypeAlias = tuple[float, str]
"""A line, and when it was heard by our clock."""


def events(node: str, lines: Iterable[Heard], clock: Clock, zero: float,
           names: Mapping[IPv4Address, str]) -> list[Event]:
    """What a node tells of itself; `names` says whose the addresses of the balancer's table are.

    A guest may say anything: what is no such line is left out.
    """
    found: list[Event] = []
    table: dict[tuple[str, str], int] | None = None
    for heard, line in lines:
        kind, _, rest = line.partition(" ")
        moment, _, said = rest.partition(" ")
        if line in (LOST, FOUND):
            text = "answers no more" if line == LOST else "answers"
            found.append(Event(at=heard - zero, node=node, kind="node", text=text, has=line == FOUND))
            table = None
            continue
        try:
            at = round(clock.ours(float(moment), heard) - zero, 4)
            match kind:
                case "address":
                    found.append(_address(node, at, said))
                case "log":
                    message, logged = _entry(said)
                    at = round(clock.ours(logged, heard) - zero, 4)
                    found += [Event(at=at, node=node, kind=kind, text=text) for kind, text in _told(message)]
                case "table":
                    rows = _table(said, names)
                    found += [Event(at=at, node=node, kind="table", text=text) for text in _changes(table, rows)]
                    table = rows
        except ValueError:
            continue
    return _once(found)


def _once(found: Iterable[Event]) -> list[Event]:
    """Events in order, without those that were told again over another connection."""
    told: dict[str, float] = {}
    events = []
    for event in sorted(found, key=lambda event: event.at):
        if event.kind in ("vip", "node") or event.at - told.get(event.text, float("-inf")) > _SAME_SECONDS:
            events.append(event)
        told[event.text] = event.at
    return events


def _address(node: str, at: float, said: str) -> Event:
    verb, _, address = said.partition(" ")
    if verb not in ("has", "gained", "lost"):
        raise ValueError(verb)
    return Event(at=at, node=node, kind="vip", text=f"{'loses' if verb == 'lost' else 'has'} {IPv4Address(address)}",
                 address=IPv4Address(address), has=verb != "lost", late=verb == "has")


def _entry(said: str) -> tuple[str, float]:
    """A message of a unit, as `journalctl -o json` prints it, and when it came to the journal, by the same clock."""
    entry = json.loads(said.encode().decode("unicode_escape"))
    if not isinstance(entry, dict):
        raise ValueError(said)
    return str(entry.get("MESSAGE")), int(entry.get("__MONOTONIC_TIMESTAMP", "")) / 1e6


def _told(message: str) -> Iterator[tuple[Kind, str]]:
    """What a message says of an election."""
    if state := _VRRP.search(message):
        yield "vrrp", f"is {state['state']}"
    elif _FAREWELL.search(message):
        yield "vrrp", "says that it leaves" if "ent 0" in message else "hears that the other leaves"
    for pattern, text in _HEARTBEAT:
        if match := pattern.search(message):
            yield "heartbeat", text.format(*match.groups())


def _table(said: str, names: Mapping[IPv4Address, str]) -> dict[tuple[str, str], int]:
    """The weight of each real server of each service in the kernel's table."""
    found = {}
    for row in _ROW.finditer(said):
        address = IPv4Address(int(row["address"], 16))
        found[row["service"], names.get(address, str(address))] = int(row["weight"])
    return found


def _changes(before: Mapping[tuple[str, str], int] | None, after: Mapping[tuple[str, str], int]) -> Iterator[str]:
    """What is different in the table; nothing where it is seen for the first time."""
    if before is None:
        return
    texts = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if new is None:
            texts.append(f"{key[1]} left the table")
        elif old is None:
            texts.append(f"{key[1]} is in the table" + ("" if new else ", with weight 0"))
        elif old != new:
            texts.append(f"{key[1]} has weight {new}, before {old}")
    yield from dict.fromkeys(texts)


def has_now(events: Sequence[Event], address: IPv4Address) -> dict[str, bool]:
    """Whether each node has an address that it may have, after these events; they are in order."""
    found: dict[str, bool] = {}
    for event in events:
        if event.address == address or (event.kind == "node" and not event.has):
            found[event.node] = bool(event.has)
    return found


def holdings(events: Iterable[Event], address: IPv4Address, start: float, end: float,
             away: Sequence[Stretch] = ()) -> list[Stretch]:
    """When each node had an address, between `start` and `end`.

    A node that answers no more has lost it, and at the latest when it was switched off: `away` says when nodes were.
    One that had it when it was first asked has it since it said that it takes it.
    """
    since: dict[str, float] = {}
    took: dict[str, float] = {}
    found: list[Stretch] = []

    def lose(node: str, at: float) -> None:
        began = since.pop(node, None)
        took.pop(node, None)
        at = min([at, *(stretch.start for stretch in away if stretch.who == node and stretch.end > at
                        and began is not None and began < stretch.start)])
        if began is not None and at > began:
            found.append(Stretch(who=node, start=began, end=at))

    for event in sorted(events, key=lambda event: event.at):
        if event.text in TAKES:
            took[event.node] = event.at
        if event.address == address and event.has:
            since.setdefault(event.node, max(start, took.get(event.node, event.at) if event.late else event.at))
        elif (event.address == address and event.has is False) or (event.kind == "node" and not event.has):
            lose(event.node, event.at)
    for node in list(since):
        lose(node, end)
    return sorted(found, key=lambda stretch: stretch.start)
