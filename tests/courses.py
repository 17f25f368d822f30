"""A drill as it might be seen: the holder crashes, another takes over after 3 s, and the first comes back."""

from ipaddress import IPv4Address
from typing import Any

from labctl.observe.course import Course
from labctl.observe.events import Event
from labctl.observe.outage import Request
from labctl.observe.promises import Promise

VIP = IPv4Address("10.10.10.100")
CRASH = Promise(kind="takeover", seconds=3.6, allowed=5.6, why="nothing is heard of it any more")


def asked(start: float, end: float, silent: tuple[float, float] = (0, 3), rate: int = 10) -> tuple[Request, ...]:
    """Requests to two servers in turn; those that begin in the silence are lost."""
    every = []
    for number in range(int((end - start) * rate)):
        began = round(start + number / rate, 3)
        if silent[0] <= began < silent[1]:
            every.append(Request(began=began, ended=began + 2, outcome="timeout"))
        else:
            every.append(Request(began=began, ended=began + 0.02, outcome="answered", status=200,
                                 server=f"rs{number % 2 + 1}"))
    return tuple(every)


def event(at: float, node: str, text: str, has: bool | None = None) -> Event:
    """Something on a director."""
    if has is None:
        return Event(at=at, node=node, kind="vrrp", text=text)
    return Event(at=at, node=node, kind="vip", text=text, address=VIP, has=has)


def course(**changes: Any) -> Course:
    """The drill, with what is different in it."""
    values: dict[str, Any] = {
        "lab": "lvs", "fault": "crash lvs-m", "node": "lvs-m", "off": True, "address": VIP, "port": 80, "rate": 10,
        "began": "2024-01-01T00:00:00.000+00:00", "start": -2, "done": 0.2, "heal": 6, "healed": 26, "end": 30,
        "error": 0.003, "promise": CRASH, "requests": asked(-2, 30),
        "events": (event(-2.5, "lvs-m", "has 10.10.10.100", True),
                   Event(at=0.01, node="lvs-m", kind="node", text="answers no more", has=False),
                   event(2.9, "lvs-s", "is MASTER"), event(2.92, "lvs-s", "has 10.10.10.100", True),
                   event(26.4, "lvs-m", "is MASTER"), event(26.41, "lvs-m", "has 10.10.10.100", True),
                   event(26.45, "lvs-s", "loses 10.10.10.100", False), event(26.5, "lvs-s", "is BACKUP")),
    }
    return Course(**{**values, **changes})
