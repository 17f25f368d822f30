"""A lab as it might be seen at one moment: its first director has just crashed."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from courses import asked, event

from labctl.labs.journal import Fault
from labctl.language import catalog
from labctl.observe.events import Event
from labctl.observe.outage import Timeline
from labctl.observe.overview import Seen, Snapshot, Transition, hear, snapshot
from labctl.observe.ticker import Ticker
from labctl.plan import guests
from labctl.plan.plan import Plan, make

NOW = datetime(2024, 1, 1, 12, 0, 30, tzinfo=UTC)
TABLE = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.10.10.100:80 rr
  -> 10.10.10.12:80               Route   1      2          291
  -> 10.10.10.13:80               Route   0      0          17
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS
  -> RemoteAddress:Port
TCP  10.10.10.100:80                     9       57        0     3810        0
  -> 10.10.10.12:80                      9       55        0     3800        0
  -> 10.10.10.13:80                      0        2        0       10        0
"""


def plan(topology: str = "lvs-dr-keepalived") -> Plan:
    """The plan of a shipped topology."""
    return make(catalog.load(catalog.find(topology)), topology, guests.load("debian-12"))


def answer(planned: Plan, units: str = "", *, digest: str = "", addresses: Iterable[str] = (), table: str = "") -> str:
    """What a node answers: `units` are pairs such as `keepalived=active`."""
    pairs = [pair.split("=") for pair in units.split()]
    states = [" ".join(unit for unit, _ in pairs), *(state for _, state in pairs)]
    lines = [f"{number}: eth0    inet {address}/24 scope global eth0" for number, address in enumerate(addresses)]
    return "=end=\n".join("\n".join(part) + "\n" for part in (
        [digest or planned.digest], states, lines, table.splitlines()))


def seen(planned: Plan, **changes: Any) -> Seen:
    """The lvs-m crashed, and its backup took over."""
    ups = {node.name: " ".join(f"{unit}=active" for unit in node.units) for node in planned.nodes}
    said = {name: hear(planned, answer(planned, units)) for name, units in ups.items()}
    said["lvs-s"] = hear(planned, answer(planned, ups["lvs-s"], addresses=["10.10.10.14", "10.10.10.100"], table=TABLE))
    events = (event(-2.5, "lvs-m", "has 10.10.10.100", True), event(2.9, "lvs-s", "is MASTER"),
              Event(at=0.2, node="lvs-m", kind="node", text="answers no more", has=False),
              event(2.92, "lvs-s", "has 10.10.10.100", True))
    timeline = Timeline([one for one in asked(-20, 30) if one.ended < 29.9], 30)
    ticker = Ticker(10)
    told = ticker.news(timeline, events)
    values: dict[str, Any] = {
        "at": NOW, "frontend": planned.frontends()[0], "rate": 10.0, "exercise": False,
        "states": {node.name: "off" if node.name == "lvs-m" else "running" for node in planned.nodes}, "said": said,
        "passed": {}, "timeline": timeline, "events": events, "ticker": ticker,
        "faults": [Fault(kind="crash", what="crash lvs-m", nodes=["lvs-m"], id=3, by="user",
                         since=NOW - timedelta(seconds=30))],
        "transitions": [Transition(at=NOW + timedelta(seconds=at - 30), text=text) for at, text in told]}
    return Seen(**{**values, **changes})


def shot(**changes: Any) -> Snapshot:
    """The same as a snapshot, with what is different in it."""
    planned = plan()
    return snapshot(planned, seen(planned, **changes))
