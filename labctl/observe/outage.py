"""Requests at a steady rate, and what they show: who answered when, for how long nobody, and which were lost. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

from labctl.base.types import Model
from labctl.observe.clock import Clock

Outcome: TypeAlias = Literal["answered", "failed", "refused", "broken", "unreachable", "timeout"]
"""`failed` is another HTTP status than 200, `broken` a connection that ended without an answer, `unreachable` a network
or a host that cannot be reached, `timeout` no answer in time."""
TIMEOUT_SECONDS = 2.0
"""A request without an answer by then is lost; a SYN that is lost comes again after 1 s, and may still be in time."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_LONGEST_NAME = 60


class Request(Model):
    """A request and what became of it; times are seconds from the zero of a timeline."""

    began: float
    ended: float
    outcome: Outcome
    status: int = 0
    """Of HTTP"""
    server: str = ""
    """What the page says: who answered, and behind a proxy who was asked by it."""
    scout: bool = False
    """A further one, sent while nobody answered, to see the end of it in time; it counts for nothing else."""


class Gap(Model):
    """A time in which no answer came."""

    start: float
    """The last answer before"""
    end: float
    """The first one after; where none came, the end of the timeline"""
    over: bool = True

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


class Stretch(Model):
    """A time in which something was so without interruption."""

    who: str
    start: float
    end: float


class Timeline:
    """Requests, by the time of their answers."""

    def __init__(self, requests: Iterable[Request], end: float) -> None:
        """`end` is when the last of them was looked for; what is under way then is not among them."""
        self.end = end
        self.every = sorted(requests, key=lambda request: request.ended)
        self.requests = sorted((one for one in self.every if not one.scout), key=lambda request: request.began)
        self.answers = [one for one in self.every if one.outcome == "answered"]
        self.lost = [one for one in self.requests if one.outcome != "answered"]

    def gaps(self, longer: float) -> list[Gap]:
        """Each time of more than `longer` seconds in which no answer came; the first answer begins the first."""
        gaps = [Gap(start=one.ended, end=other.ended) for one, other in pairwise(self.answers)]
        if self.answers:
            gaps.append(Gap(start=self.answers[-1].ended, end=max(self.end, self.answers[-1].ended), over=False))
        return [gap for gap in gaps if gap.seconds > longer]

    def silence(self, start: float, end: float) -> Gap | None:
        """The longest time without an answer that reaches into this one; None where there is no answer at all."""
        return max((gap for gap in self.gaps(0) if gap.end > start and gap.start < end),
                   key=lambda gap: gap.seconds, default=None)

    def outcomes(self, start: float, end: float) -> Counter[Outcome]:
        """What became of the requests that began in this time."""
        return Counter(request.outcome for request in self.requests if start <= request.began < end)

    def losing(self, start: float, end: float) -> Stretch:
        """From the first to the last of the requests of this time that were lost; nothing where none was."""
        lost = [request.began for request in self.lost if start <= request.began < end] or [start]
        return Stretch(who="", start=lost[0], end=lost[-1])

    def servers(self) -> Counter[str]:
        """How many requests each server answered."""
        return Counter(request.server for request in self.requests if request.outcome == "answered")

    def stretches(self, longer: float) -> list[Stretch]:
        """When each server answered, without pauses of more than `longer` seconds."""
        found: dict[str, list[Stretch]] = {}
        for answer in self.answers:
            mine = found.setdefault(answer.server, [])
            if mine and answer.ended - mine[-1].end <= longer:
                mine[-1] = mine[-1].model_copy(update={"end": answer.ended})
            else:
                mine.append(Stretch(who=answer.server, start=answer.ended, end=answer.ended))
        return sorted((stretch for mine in found.values() for stretch in mine), key=lambda stretch: stretch.start)

    def quiet(self, start: float, end: float) -> bool:
        """Whether there were requests in this time, and all of them were answered."""
        return set(self.outcomes(start, end)) == {"answered"}


def requests(lines: Iterable[tuple[float, str]], clock: Clock, zero: float) -> list[Request]:
    """The requests that the client tells of, in lines with the time at which each was heard, by our clock.

    A guest may say anything: what is no such line is left out.
    """
    found = [_request(line, heard, clock, zero) for heard, line in lines if line.startswith(("request ", "scout "))]
    return [request for request in found if request]


def _request(line: str, heard: float, clock: Clock, zero: float) -> Request | None:
    kind, began, ended, outcome, status, *page = [*line.split(" ", 5), ""][:6]
    if outcome not in OUTCOMES:
        return None
    try:
        took = float(ended) - float(began)
        at = clock.ours(float(ended), heard) - zero
        server = " ".join(page).encode().decode("unicode_escape")[:_LONGEST_NAME].strip()
        return Request(began=round(at - took, 4), ended=round(at, 4), outcome=outcome, status=int(status),
                       server=server, scout=kind == "scout")
    except ValueError:
        return None


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that is not below `share` of them (the nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, -int(-share * len(ranked) // 1) - 1)]
