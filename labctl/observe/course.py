"""The course of a drill: what was done, what was seen, and what that comes to. Pure."""

from collections.abc import Iterator
from functools import cached_property
from ipaddress import IPv4Address

from labctl.base.types import Model
from labctl.observe.events import Event, holdings
from labctl.observe.outage import Gap, Request, Stretch, Timeline
from labctl.observe.promises import Promise
from labctl.observe.verdict import Verdict

_LONGEST_CALM = 6
"""Intervals between requests without an answer that nobody calls a gap, on a quiet machine"""


class Course(Model):
    """A drill. All times are seconds from the moment at which the fault was begun."""

    lab: str
    fault: str
    """In the words of `labctl fault`"""
    node: str
    off: bool
    """Whether the node was switched off or held still, and so held no address"""
    address: IPv4Address
    port: int
    rate: float
    """Requests per second"""
    began: str
    """The moment of the fault as ISO 8601 in UTC"""
    start: float
    """When requests began; negative"""
    done: float
    """When the fault was there"""
    heal: float
    """When it began to heal"""
    healed: float
    end: float
    error: float
    """By how much times of different nodes may be wrong against each other"""
    promise: Promise | None
    requests: tuple[Request, ...]
    events: tuple[Event, ...]
    verdicts: tuple[Verdict, ...] = ()

    @cached_property
    def timeline(self) -> Timeline:
        """The requests by time."""
        return Timeline(self.requests, self.end)

    @cached_property
    def longer(self) -> float:
        """Nobody answers after so many seconds: several requests, and twice what there was before the fault."""
        calm = max((gap.seconds for gap in self.timeline.gaps(0) if gap.end < 0), default=0)
        return max(_LONGEST_CALM / self.rate, 2 * calm)

    @property
    def gaps(self) -> list[Gap]:
        """The times without an answer."""
        return self.timeline.gaps(self.longer)

    @property
    def silence(self) -> Gap | None:
        """The longest time without an answer while the fault was there; None where there was no answer at all."""
        return self.timeline.silence(0, self.heal)

    @property
    def silence_after(self) -> Gap | None:
        """The same from then on."""
        return self.timeline.silence(self.heal, self.end)

    @property
    def measure(self) -> float:
        """What the promise is about: the longest silence, or for how long requests were lost."""
        if self.promise and self.promise.kind != "takeover":
            losing = self.timeline.losing(0, self.heal)
            return losing.end - losing.start
        return self.silence.seconds if self.silence else self.heal

    @property
    def holdings(self) -> list[Stretch]:
        """Who had the address when."""
        away = [Stretch(who=self.node, start=0, end=self.heal)] if self.off else []
        return holdings(self.events, self.address, self.start, self.end, away)

    def story(self) -> list[tuple[float, str]]:
        """What happened, in order: seconds, and a sentence for each."""
        return sorted(self._sentences(), key=lambda sentence: sentence[0])

    def _sentences(self) -> Iterator[tuple[float, str]]:
        yield 0.0, self.fault
        yield self.heal, f"{self.fault} heals"
        if self.healed - self.heal > 1:
            yield self.healed, f"{self.node} is as it was"
        for gap in self.gaps:
            yield gap.start, f"nobody answers, for {gap.seconds:.3f} s" + ("" if gap.over else " and to the end")
        for event in self.events:
            if event.at >= 0:
                yield event.at, event.sentence
