"""How drills look: a story with a table for people, one document, or an object per line for other programs."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from labctl.cli import display, verdicts
from labctl.observe.course import Course
from labctl.observe.outage import quantile
from labctl.plan.plan import Plan


class Stories:
    """What happened in each drill, and how often what, for people."""

    def __init__(self, console: Console, err: Console, plan: Plan) -> None:
        self._console = console
        self._err = err
        self._lines = verdicts.Lines(console, plan)

    def say(self, text: str) -> None:
        """Say what is done now."""
        self._err.print(text, markup=False, soft_wrap=True)

    def ends(self, course: Course) -> None:
        """Tell a drill."""
        self._console.print(f"\n{course.fault}, seen at {course.address}:{course.port} by {course.rate:g} requests a "
                            "second", style="bold", markup=False, soft_wrap=True)
        for at, sentence in course.story():
            self._console.print(f"{at:9.3f} s  {sentence}", markup=False, soft_wrap=True)
        lost = course.timeline.outcomes(course.start, course.end)
        answered = ", ".join(f"{server or '?'} {count}" for server, count in sorted(course.timeline.servers().items()))
        others = ", ".join(f"{count} {outcome}" for outcome, count in sorted(lost.items()) if outcome != "answered")
        self._console.print(f"{sum(lost.values())} requests; answered: {answered or 'none'}; lost: {others or 'none'}; "
                            f"clocks ± {course.error * 1000:.0f} ms", markup=False, soft_wrap=True)
        for verdict in course.verdicts:
            self._lines.ends(verdict)

    def conclude(self, courses: Sequence[Course]) -> None:
        """Compare drills with the same fault."""
        rows = [[one["fault"], str(one["runs"]), *(f"{one[key]:.3f}" for key in ("min", "median", "p95", "max")),
                 "" if one["promised"] is None else f"{one['promised']:.1f}", str(one["lost"])]
                for one in distributions(courses)]
        if len(courses) > 1:
            self._console.print()
            display.table(self._console, ["FAULT", "RUNS", "MIN s", "MEDIAN s", "P95 s", "MAX s", "PROMISED s", "LOST"],
                          rows)


class Events:
    """A JSON object per line."""

    def __init__(self, console: Console) -> None:
        self._lines = display.JsonLines(console)

    def say(self, text: str) -> None:
        """Say what is done now."""
        self._lines.say(text)

    def ends(self, course: Course) -> None:
        """Tell a drill."""
        self._lines.event("drill", **document(course))

    def conclude(self, courses: Sequence[Course]) -> None:
        """Compare drills with the same fault."""
        self._lines.event("end", distributions=distributions(courses))


class Document:
    """All drills as one JSON document."""

    def __init__(self, console: Console, err: Console, plan: Plan) -> None:
        self._console = console
        self._err = err
        self._plan = plan

    def say(self, text: str) -> None:
        """Say what is done now."""
        self._err.print(text, markup=False, soft_wrap=True)

    def ends(self, course: Course) -> None:
        """It is told at the end."""

    def conclude(self, courses: Sequence[Course]) -> None:
        """Print the document."""
        shown = {"version": 1, "lab": self._plan.lab, "distributions": distributions(courses),
                 "drills": [document(course) for course in courses]}
        self._console.print(display.data(shown, "json"), markup=False, soft_wrap=True)


def document(course: Course) -> dict[str, Any]:
    """A drill as other programs get it: what was seen, and what follows from it."""
    timeline = course.timeline
    phases = {"before": (course.start, 0.0), "broken": (0.0, course.heal), "after": (course.heal, course.end)}
    return {
        **course.model_dump(mode="json"),
        "measure": round(course.measure, 3),
        "gaps": [{**gap.model_dump(), "seconds": round(gap.seconds, 3)} for gap in course.gaps],
        "held": [stretch.model_dump() for stretch in course.holdings],
        "answered": [stretch.model_dump() for stretch in timeline.stretches(course.longer)],
        "servers": dict(timeline.servers()),
        "outcomes": {name: dict(timeline.outcomes(*times)) for name, times in phases.items()},
    }


def distributions(courses: Sequence[Course]) -> list[dict[str, Any]]:
    """Of the drills with each fault what was measured: the least, the median, the 95th percentile, the most."""
    found = []
    for fault in dict.fromkeys(course.fault for course in courses):
        mine = [course for course in courses if course.fault == fault]
        measures = [course.measure for course in mine]
        found.append({
            "fault": fault, "runs": len(mine), "promised": mine[0].promise.seconds if mine[0].promise else None,
            "lost": sum(len(course.timeline.lost) for course in mine),
            **{name: round(quantile(measures, share), 3)
               for name, share in (("min", 0.0), ("median", 0.5), ("p95", 0.95), ("max", 1.0))}})
    return found


def make(form: str, console: Console, err: Console, plan: Plan) -> Stories | Events | Document:
    """What prints drills as `table`, `json` or `jsonl`."""
    match form:
        case "json":
            return Document(console, err, plan)
        case "jsonl":
            return Events(console)
        case _:
            return Stories(console, err, plan)
