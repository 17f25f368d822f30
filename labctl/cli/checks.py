"""The command that checks a lab."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labctl.cli.common import LabArgument, Panel, command, err, must_be_open, out
from labctl.labs import targets

if TYPE_CHECKING:
    from rich.console import Console

    from labctl.observe.verdict import Check

FAILED, COULD_NOT_CHECK, NO_CHECKS = 1, 2, 3
"""Exit codes."""


class Form(StrEnum):
    """How verdicts are printed."""

    table = "table"
    json = "json"
    jsonl = "jsonl"


@command(Panel.labs, "labctl test", "labctl test -k 'crash or stop' --junit report.xml")
def test(
    name: LabArgument = None,
    expression: Annotated[str, typer.Option(
        "-k", metavar="EXPR", help="Only the checks whose names or titles have these words; 'and', 'or', 'not' and "
                                   "parentheses combine them.")] = "",
    list_only: Annotated[bool, typer.Option("--list", help="Show the checks, run none.")] = False,
    output: Annotated[Form, typer.Option(
        "--output", "-o", help="How to print verdicts; 'jsonl' prints each one at once, an object per line.",
    )] = Form.table,
    shuffle: Annotated[int | None, typer.Option(
        "--shuffle", metavar="SEED", help="Run the checks in another order, the same one for the same number.",
        show_default=False)] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit report.",
                                               show_default=False)] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write an HTML report.",
                                              show_default=False)] = None,
) -> None:
    """Check, mostly from the client, that the lab does what it should."""
    from labctl.cli import verdicts as forms  # noqa: PLC0415 (this command alone loads pytest and testinfra)
    from labctl.observe import checks, report  # noqa: PLC0415
    from labctl.observe.verdict import count  # noqa: PLC0415

    found = targets.one_lab(name)
    if list_only:
        chosen = checks.choose(found, expression)
        _show(chosen, out)
        raise typer.Exit(0 if chosen else NO_CHECKS)
    must_be_open(found)
    found.must_not_hang(found.plan.nodes)
    with forms.make(output.value, out, found.plan) as shown:
        verdicts = checks.run(found, shown, expression, shuffle)
        if verdicts:
            shown.conclude(verdicts)
    if not verdicts:
        err.print(f"No check of the lab '{found.name}' matches '{expression}'. There are:", markup=False)
        _show(checks.choose(found), err)
        raise typer.Exit(NO_CHECKS)
    if junit:
        report.write_junit(junit, found, verdicts)
    if html:
        report.write_html(html, found.plan, verdicts)
    counts = count(verdicts)
    raise typer.Exit(FAILED if counts["failed"] else COULD_NOT_CHECK if counts["unknown"] else 0)


def _show(chosen: "Sequence[Check]", console: "Console") -> None:
    width = max((len(check.id) for check in chosen), default=0)
    for check in chosen:
        console.print(f"{check.id:<{width}}  {check.title}", markup=False, soft_wrap=True)
