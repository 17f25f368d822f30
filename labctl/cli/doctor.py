"""The command that says what is missing on this machine, or wrong in an image."""

from typing import Annotated

import typer

from labctl.base.errors import LabError
from labctl.base.text import visible
from labctl.cli.common import Panel, command, err, out, progress_of
from labctl.plan import guests

CHECKS_FAILED = 1


@command(Panel.setup, "labctl doctor", "labctl doctor --guest debian-12")
def doctor(
    guest: Annotated[str | None, typer.Option(
        "--guest", metavar="GUEST", help="Start a machine of this guest instead, and test whether its image is as labs "
        "need it.", autocompletion=guests.names, show_default=False)] = None,
) -> None:
    """Say what is missing for a private room, each with the command that provides it; or test a guest's image."""
    from labctl.observe import doctor as examination  # noqa: PLC0415 (starts programs; used by this command alone)

    if guest is None:
        findings = examination.examine()
    else:
        loaded = guests.load(guest)
        planned = examination.plan_for(loaded)
        with progress_of(planned.nodes) as progress:
            findings = examination.examine_guest(loaded, planned, progress)
    for finding in findings:
        sign = {"fine": "[green]✓[/]", "note": "[yellow]![/]", "missing": "[red]✗[/]"}[finding.verdict]
        out.print(f"{sign} ", end="")
        out.print(visible(f"{finding.what}: {finding.detail}"), markup=False, soft_wrap=True)
        if finding.mend:
            out.print(f"    {finding.mend}", markup=False, soft_wrap=True)
    missing = [finding for finding in findings if finding.verdict == "missing"]
    if missing and guest is None:
        raise LabError(f"Missing: {len(missing)} of {len(findings)} things that a lab needs.")
    if guest:
        err.print(f"{len(findings) - len(missing)} of {len(findings)} assumptions hold for the image of '{guest}'.")
    if missing:
        raise typer.Exit(CHECKS_FAILED)
