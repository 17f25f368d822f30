"""Printing verdicts: lines for people, one JSON document, or a JSON object per line."""

from collections.abc import Sequence
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from typing_extensions import override

from labctl.base.text import visible
from labctl.cli import display
from labctl.observe.verdict import Check, Outcome, Verdict, Watcher, count, text
from labctl.plan.plan import Plan

_COLOURS: dict[Outcome, str] = {"passed": "green", "failed": "red", "unknown": "yellow"}
_MARKS: dict[Outcome, str] = {"passed": "✓", "failed": "✗", "unknown": "?"}
_PLAIN_MARKS: dict[Outcome, str] = {"passed": "ok", "failed": "FAILED", "unknown": "?"}
"""For a terminal that cannot show the others."""


class Lines(Watcher):
    """A line per check, with failures explained below it; on a terminal also the current check."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._console = console
        self._plan = plan
        self._marks = _MARKS if display.can_show(console, "".join(_MARKS.values())) else _PLAIN_MARKS
        self._status = console.status("", spinner="dots" if self._marks is _MARKS else "line")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    @override
    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    @override
    def begins(self, check: Check) -> None:
        if self._console.is_terminal:
            self._status.update(escape(check.title))
            self._status.start()

    @override
    def ends(self, verdict: Verdict) -> None:
        self._status.stop()
        title = escape(verdict.title) + (f" ({verdict.measured})" if verdict.measured else "")
        mark = f"[{_COLOURS[verdict.outcome]}]{self._marks[verdict.outcome]}[/]"
        after = ": could not check" if verdict.outcome == "unknown" else f"  [dim]{verdict.seconds:.1f} s[/]"
        self._console.print(f"{mark} {title}{after}", soft_wrap=True)
        if verdict.message:
            for line in visible(text(verdict, self._plan)).splitlines():
                self._console.print(f"    {line}", markup=False, soft_wrap=True)

    def conclude(self, verdicts: Sequence[Verdict]) -> None:
        """Print the totals."""
        counts = count(verdicts)
        unknown = f", {counts['unknown']} could not be checked" if counts["unknown"] else ""
        self._console.print(f"{counts['passed']} passed, {counts['failed']} failed{unknown}", soft_wrap=True)


class Events(Watcher):
    """A JSON object per line, as verdicts come."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._lines = display.JsonLines(console)
        self._plan = plan

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    @override
    def say(self, text: str) -> None:
        self._lines.say(text)

    @override
    def begins(self, check: Check) -> None:
        self._lines.event("check", id=check.id, title=check.title, subject=check.subject)

    @override
    def ends(self, verdict: Verdict) -> None:
        self._lines.event("verdict", **verdict.model_dump(mode="json"))

    def conclude(self, verdicts: Sequence[Verdict]) -> None:
        """Print the totals."""
        self._lines.event("end", lab=self._plan.lab, **count(verdicts))


class Document(Watcher):
    """All verdicts as one JSON document."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._console = console
        self._plan = plan

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    @override
    def say(self, text: str) -> None:
        pass

    @override
    def begins(self, check: Check) -> None:
        pass

    @override
    def ends(self, verdict: Verdict) -> None:
        pass

    def conclude(self, verdicts: Sequence[Verdict]) -> None:
        """Print the document."""
        shown: dict[str, Any] = {"version": 1, "lab": self._plan.lab, **count(verdicts),
                                "verdicts": [verdict.model_dump(mode="json") for verdict in verdicts]}
        self._console.print(display.data(shown, "json"), markup=False, soft_wrap=True)


def make(form: str, console: Console, plan: Plan) -> Lines | Events | Document:
    """An object that prints verdicts as `table`, `json` or `jsonl`."""
    match form:
        case "json":
            return Document(console, plan)
        case "jsonl":
            return Events(console, plan)
        case _:
            return Lines(console, plan)
