"""The commands that measure what a fault does to clients."""

import shlex
import time
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labctl.base.errors import LabError
from labctl.base.wait import Deadline, until
from labctl.cli.checks import FAILED, Form
from labctl.cli.common import Events, LabArgument, Panel, command, err, must_be_open, out
from labctl.labs import lab, targets
from labctl.labs.lab import Lab

if TYPE_CHECKING:
    from labctl.observe.course import Course

_LOOK_SECONDS, _WINDOW_SECONDS = 0.5, 70
"""How often somebody who watches sees something new, and what of the past."""
_MOST_RATE = 100
"""The kernel's balancer remembers a connection for two minutes, and by then the ports have not come round again."""

RateOption = Annotated[float, typer.Option("--rate", min=1, max=_MOST_RATE, help="Requests a second.")]


def _words(words: list[str]) -> tuple[Lab, list[list[str]]]:
    """The lab, and the words of each fault: each word is one where one of them has spaces, and else all together."""
    named = bool(words) and words[0] in lab.names()
    found = targets.one_lab(words[0] if named else None)
    rest = words[1:] if named else words
    return found, [shlex.split(word) for word in rest] if any(" " in word for word in rest) else [rest] * bool(rest)


@command(Panel.faults, "labctl drill crash lvs-m", "labctl drill lvs-dr-keepalived 'crash lvs-m' 'stop rs1 httpd'",
         "labctl drill crash lvs-m --times 10", "labctl drill --all --svg drill.svg")
def drill(
    words: Annotated[list[str] | None, typer.Argument(
        metavar="[LAB] FAULT...", help="A fault as 'labctl fault' has it, such as crash lvs-m; several in quotes.",
        show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every fault for which the topology promises something.")] = False,
    times: Annotated[int, typer.Option("--times", min=1, max=1000, help="Do it so often.")] = 1,
    rate: RateOption = 20,
    output: Annotated[Form, typer.Option(
        "--output", "-o", help="How to print it: 'jsonl' as it comes, an object per line.")] = Form.table,
    svg: Annotated[Path | None, typer.Option(
        "--svg", metavar="FILE", help="Draw a picture of it.", show_default=False)] = None,
) -> None:
    """Measure what clients notice of a fault: who answers when, for how long nobody, and what is lost."""
    from labctl.cli import courses  # noqa: PLC0415 (these load what other commands do not need)
    from labctl.observe import breaking, drill, picture  # noqa: PLC0415

    found, wanted = _words(words or [])
    must_be_open(found)
    if bool(wanted) == all_:
        raise LabError("Say what to break, or '--all'.", hint="'labctl drill crash NODE' pulls a plug.")
    faults = drill.promised(found) if all_ else [breaking.fault(found.plan, one) for one in wanted]
    if not faults:
        raise LabError(f"The topology of '{found.name}' promises nothing for any fault.",
                       hint="Say what to break, as in 'labctl drill crash NODE'.")
    if svg and not svg.absolute().parent.is_dir():
        raise LabError(f"There is no directory '{svg.absolute().parent}' to write '{svg.name}' to.")
    found.must_not_hang(found.plan.nodes)
    courses_: list[Course] = []
    shown = courses.make(output.value, out, err, found.plan)

    def ends(course: "Course") -> None:
        courses_.append(course)
        shown.ends(course)

    try:
        drill.run(found, [fault for fault in faults for _ in range(times)], rate, shown.say, ends)
    finally:  # What was measured until then is worth having.
        shown.conclude(courses_)
        if svg and courses_:
            svg.write_text(picture.draw(courses_), encoding="utf-8")
    failed = any(verdict.outcome != "passed" for course in courses_ for verdict in course.verdicts)
    raise typer.Exit(FAILED if failed else 0)


@command(Panel.faults, "labctl watch", "labctl watch lvs-dr-keepalived --for 60 -o jsonl")
def watch(
    name: LabArgument = None,
    rate: RateOption = 20,
    seconds: Annotated[float | None, typer.Option(
        "--for", metavar="SECONDS", min=1, help="Stop after so long.", show_default=False)] = None,
    output: Annotated[Events, typer.Option("--output", "-o", help="'jsonl' prints an object per line.")] = Events.text,
) -> None:
    """Watch who answers the client, and what happens to the address meanwhile. Ctrl-C ends it."""
    from labctl.cli import watching  # noqa: PLC0415 (these load what other commands do not need)
    from labctl.observe.events import has_now  # noqa: PLC0415
    from labctl.observe.live import Witnesses  # noqa: PLC0415
    from labctl.observe.observer import Observer  # noqa: PLC0415
    from labctl.observe.ticker import Ticker  # noqa: PLC0415

    found = targets.one_lab(name)
    must_be_open(found)
    found.must_not_hang(found.plan.nodes)
    frontends = found.plan.frontends()
    if not frontends:
        raise LabError(f"The lab '{found.name}' has no address that clients use, so there is nothing to watch.")
    frontend = frontends[0]
    ticker = Ticker(rate)
    what = f"{found.name}: {frontend.address}:{frontend.port}, {rate:g} requests a second"
    shown = watching.Events(out) if output is Events.jsonl else watching.Lines(out, what, rate)
    witnesses = Witnesses(Observer(found), frontend, rate)
    with suppress(KeyboardInterrupt), witnesses.listening(), shown:
        zero = time.monotonic()
        deadline = Deadline(inf if seconds is None else seconds)
        while not deadline.expired:
            timeline, events = witnesses.timeline(zero, _WINDOW_SECONDS), witnesses.events(zero)
            for at, text in ticker.news(timeline, [event for event in events if event.at > 0]):
                shown.tell(at, text)
            shown.look(timeline, ticker, has_now(events, frontend.address))
            until(lambda: False, Deadline(min(_LOOK_SECONDS, deadline.remaining)))
    shown.conclude(ticker)
