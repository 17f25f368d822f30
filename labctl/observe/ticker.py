"""What is new in what is seen of a lab, from one look to the next. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence

from labctl.observe.events import Event
from labctl.observe.outage import OUTCOMES, Timeline

_SAME_SECONDS = 0.1
LATE_SECONDS = 1.0
"""What is told of a moment is heard by then."""


class Ticker:
    """Tells each thing once, and counts requests."""

    def __init__(self, rate: float, patience: float = 1) -> None:
        """`rate` is in requests per second; where none of six in a row is answered, nobody answers.

        `patience` makes that more of them, for a lab whose answers are late without anything being wrong.
        """
        self.servers: Counter[str] = Counter()
        """How many requests each server has answered"""
        self.lost: Counter[str] = Counter()
        """How many were lost, and how"""
        self.longest = 0.0
        """The longest time without an answer, in seconds"""
        self.silent_since: float | None = None
        self._longer = 6 * patience / rate
        self._told: dict[tuple[str, str], float] = {}
        self._counted = float("-inf")

    def news(self, timeline: Timeline, events: Sequence[Event]) -> list[tuple[float, str]]:
        """What happened since the last look: seconds, and a sentence for each."""
        self._count(timeline)
        every = [*self._silences(timeline), *((event.at, event.node, event.sentence) for event in events)]
        new = []
        for at, who, text in sorted(every):
            # The better a node's clock is known, the more exact is what was told of it before.
            if self._told.get((who, text), float("-inf")) + _SAME_SECONDS < at <= timeline.end - LATE_SECONDS:
                self._told[who, text] = at
                new.append((at, text))
        return new

    def _silences(self, timeline: Timeline) -> Iterator[tuple[float, str, str]]:
        self.silent_since = None
        for gap in timeline.gaps(self._longer):
            if gap.over:
                self.longest = max(self.longest, gap.seconds)
                yield gap.start, "", "nobody answers"
                yield gap.end, "", f"answers again, after {gap.seconds:.3f} s"
            elif gap.seconds > self._longer + LATE_SECONDS:
                self.longest = max(self.longest, gap.seconds)
                self.silent_since = gap.start
                yield gap.start, "", "nobody answers"

    def _count(self, timeline: Timeline) -> None:
        until = timeline.end - LATE_SECONDS
        for request in timeline.requests:
            if self._counted < request.ended <= until:
                if request.outcome == "answered":
                    self.servers[request.server] += 1
                else:
                    self.lost[request.outcome] += 1
        self._counted = max(self._counted, until)


def by_second(timeline: Timeline, seconds: int) -> dict[str, list[int]]:
    """How many requests each server has answered in each of the last seconds, and how many were lost; oldest first."""
    found: dict[str, list[int]] = {}
    end = timeline.end - LATE_SECONDS
    for request in timeline.requests:
        who = request.server if request.outcome == OUTCOMES[0] else ""
        age = int(end - request.ended)
        if end >= request.ended and age < seconds:
            found.setdefault(who, [0] * seconds)[seconds - 1 - age] += 1
    return found
