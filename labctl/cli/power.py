"""Commands that switch nodes on and off."""

from collections.abc import Sequence
from typing import Annotated

import typer

from labctl.cli.common import (
    Events,
    EventsOption,
    Panel,
    PatternArgument,
    command,
    err,
    must_be_open,
    progress_of,
)
from labctl.labs import power, targets
from labctl.labs.journal import Journal
from labctl.labs.lab import Lab, locked
from labctl.plan.plan import PlannedNode

ForceOption = Annotated[bool, typer.Option("--force", help="Pull the plug, also of a node that does not answer.")]


@command(Panel.nodes, "labctl start rs1", "labctl start 'lab-2/*'")
def start(target: PatternArgument, output: EventsOption = Events.text) -> None:
    """Switch nodes on, and wait until they are ready and the lab serves again."""
    found, nodes = targets.some_nodes(target)
    must_be_open(found)
    with progress_of(nodes, output) as progress:
        trouble = power.start(found, nodes, progress)
        _keep_broken(found, nodes)
    _say_what_came_of_it(found, trouble)


@command(Panel.nodes, "labctl stop rs1", "labctl stop --force 'lvs-*'")
def stop(target: PatternArgument, force: ForceOption = False) -> None:
    """Shut nodes down and switch them off; their disks stay as they are."""
    found, nodes = targets.some_nodes(target)
    must_be_open(found)
    with progress_of([]) as progress:
        power.stop(found, nodes, progress, force=force)
    for node in nodes:
        err.print(f"'{node.name}' is off.", markup=False)


@command(Panel.nodes, "labctl reboot 'rs*'", "labctl reboot --force rs1")
def reboot(target: PatternArgument, force: ForceOption = False, output: EventsOption = Events.text) -> None:
    """Reboot nodes, and wait until the lab serves again."""
    found, nodes = targets.some_nodes(target)
    must_be_open(found)
    with progress_of(nodes, output) as progress:
        trouble = power.reboot(found, nodes, progress, force=force)
        _keep_broken(found, nodes)
    _say_what_came_of_it(found, trouble)


def _keep_broken(found: Lab, nodes: Sequence[PlannedNode]) -> None:
    """What is broken on purpose stays so after a boot, until somebody heals it."""
    if Journal(found.directory).faults():
        from labctl.observe.faults.faults import Faults  # noqa: PLC0415 (loads what is seldom needed)

        with locked(found.name):
            Faults(found).booted([node.name for node in nodes])


def _say_what_came_of_it(found: Lab, trouble: str) -> None:
    err.print(f"The nodes are ready. {trouble}" if trouble else f"The lab '{found.name}' serves again.",
              markup=False, soft_wrap=True)
