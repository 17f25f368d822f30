"""What a topology promises for the time after a fault: how long nobody may answer, or how long requests may be lost."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from labctl.base.types import Model
from labctl.labs.journal import Wanted
from labctl.labs.lab import Lab
from labctl.labs.readiness import crowd
from labctl.language.services import Failover, Frontend
from labctl.plan.plan import Plan

_NOTICED_SECONDS = {"kvm": 2, "tcg": 6}
"""Beside the election's own time: the address and its ARP announcement, and the client's next request. More where
nodes have to share processors."""
_MACHINE = ("crash", "freeze", "unplug")
_PROGRAM = ("stop", "kill", "hang")


@dataclass(frozen=True)
class Slack:
    """What machines and programs need beside the time that a protocol promises."""

    noticed: float
    """Seconds until a client notices"""
    patience: float
    """The factor on what programs do"""

    def seconds(self, election: float, failover: Failover) -> float:
        """How long nobody may answer while an address moves."""
        return election + failover.work_seconds * self.patience + self.noticed


def slack(lab: Lab) -> Slack:
    """What there is in a lab."""
    return Slack(_NOTICED_SECONDS[lab.record.accel] * crowd(len(lab.plan.nodes)), lab.patience)


class Promise(Model):
    """What holds after a fault."""

    kind: Literal["takeover", "removal", "nothing"]
    """`takeover`: how long nobody may answer; `removal`: how long requests may be lost; `nothing`: none may be lost."""
    seconds: float
    """By the protocol or the check alone"""
    allowed: float
    """With what machines need besides"""
    why: str


_NOTHING_LOST = Promise(kind="nothing", seconds=0, allowed=0, why="nobody is asked there")


def promise(plan: Plan, frontend: Frontend, what: Wanted, holder: str, more: Slack) -> Promise | None:
    """What the topology promises to clients of a frontend for a fault; None where it promises nothing."""
    node = what.nodes[0]
    if what.kind == "drain":
        return _NOTHING_LOST
    if what.kind not in _MACHINE + _PROGRAM or not _is_off(plan, frontend, what):
        return None
    if node == holder:
        return _takeover(what, frontend.failover, more) if frontend.failover else None
    removal = max((service.passes_on().get(node, -1) for service in plan.topology.services.values()), default=-1)
    if removal < 0:
        return _NOTHING_LOST if node in frontend.holders else None
    return None if removal == inf else Promise(
        kind="removal", seconds=removal, allowed=removal + more.noticed, why="its check takes it out of use")


def _is_off(plan: Plan, frontend: Frontend, what: Wanted) -> bool:
    """Whether a fault of a machine cuts it off from the address; where it is unplugged elsewhere, nobody knows."""
    return what.kind != "unplug" or plan.topology.network_of(frontend.address) in what.options["networks"]


def _takeover(what: Wanted, failover: Failover, more: Slack) -> Promise | None:
    seconds, why = _election(what, failover)
    if seconds is None:
        return None
    return Promise(kind="takeover", seconds=seconds, allowed=more.seconds(seconds, failover), why=why)


def _election(what: Wanted, failover: Failover) -> tuple[float, str] | tuple[None, str]:
    """The most that an election takes after something happened to the holder."""
    if what.kind in _MACHINE:
        return failover.crash_seconds, "nothing is heard of it any more"
    units = [unit.removesuffix(".service") for unit in what.options.get("units", "").split()]
    if failover.unit in [*units, what.options.get("program")]:
        return {"stop": (failover.stop_seconds, "it says that it leaves"),
                "hang": (failover.crash_seconds, "nothing is heard of it any more")}.get(what.kind, (None, ""))
    if failover.watch_seconds is None:
        return None, ""
    return failover.watch_seconds + failover.stop_seconds, "its watch finds that it does not serve"
