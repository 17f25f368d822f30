"""Commands that show steps, do them and undo them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer

from labctl.cli import display
from labctl.cli.common import (
    GuestOption,
    Panel,
    SetOption,
    StepsArgument,
    command,
    err,
    make_plan,
    must_be_open,
    topology_names,
)
from labctl.labs import lab, targets
from labctl.labs.journal import Journal
from labctl.plan.plan import PlannedNode
from labctl.plan.steps import Step


@command(Panel.steps, "labctl steps lvs-dr rs1")
def steps(
    name: Annotated[str, typer.Argument(metavar="LAB", help="A lab that is up, or a topology.",
                                        autocompletion=topology_names, show_default=False)],
    node: Annotated[str | None, typer.Argument(help="Only this node.", show_default=False)] = None,
    guest: GuestOption = None,
    changes: SetOption = None,
) -> None:
    """Print what a person would type on the nodes, and why."""
    running = lab.open_lab(name).plan if name in lab.names() and not changes else None
    planned = running if running and guest in (None, running.guest.name) else make_plan(name, None, guest, changes)
    display.sheet(planned, [planned.node(node)] if node else planned.nodes, typer.echo)


@command(Panel.steps, "labctl apply rs1/arp", "labctl apply web")
def apply(wanted: StepsArgument) -> None:
    """Do steps on their nodes (again), or all steps of services."""
    with _chosen(wanted) as labs:
        for found, steps in labs:
            states = found.states()
            for node, step in steps:
                found.must_run(node, states)
                found.apply(node, step)
                _is_no_fault(found, node, step)
                err.print(f"{node.name}/{step.name}: done", markup=False)


def _is_no_fault(found: lab.Lab, node: PlannedNode, step: Step) -> None:
    """Forget the fault that a step was, now that somebody did or undid it. To be called with the lab's lock."""
    if any(node.name in fault.nodes for fault in Journal(found.directory).faults()):
        from labctl.observe.faults.faults import Faults  # noqa: PLC0415 (loads what is seldom needed)

        Faults(found).step_changed(node.name, step.name)


@command(Panel.steps, "labctl undo rs1/arp", "labctl undo rs1/arp rs2/arp", "labctl undo web")
def undo(wanted: StepsArgument) -> None:
    """Undo steps on their nodes, or all done steps of services, the last one first."""
    with _chosen(wanted) as labs:
        for found, steps in labs:
            states = found.states()
            # A single step is undone even without its marker, since it may have failed halfway. So are all steps of an
            # exercise, where the markers would give the answer away.
            applied = found.applied(states) if len(steps) > 1 and not found.record.exercise else {}
            for node, step in reversed(steps):
                done = applied.get(node.name)
                if done is not None and step.name not in done:
                    err.print(f"{node.name}/{step.name}: was not done", markup=False)
                    continue
                found.must_run(node, states)
                found.undo(node, step)
                _is_no_fault(found, node, step)
                err.print(f"{node.name}/{step.name}: undone", markup=False)


@contextmanager
def _chosen(wanted: Sequence[str]) -> Iterator[list[tuple[lab.Lab, list[tuple[PlannedNode, Step]]]]]:
    """The steps that each word names, in labs that nobody else changes or tests until the end of the block.

    Raises LabError for any word that is wrong and any lab that is busy, before anything is done.
    """
    chosen = [targets.some_steps(target) for target in wanted]
    with ExitStack() as stack:
        for name, found in {found.name: found for found, _ in chosen}.items():
            must_be_open(found)
            stack.enter_context(lab.locked(name))
        yield chosen
