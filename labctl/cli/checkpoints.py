"""Commands for the user's checkpoints."""

from typing import Annotated, Any

import typer

from labctl.cli import display
from labctl.cli.common import (
    LabOption,
    Output,
    OutputOption,
    checkpoint_app,
    checkpoint_names,
    command,
    err,
    must_be_open,
    out,
    print_data,
    progress_of,
)
from labctl.labs import rewind, targets
from labctl.machines.memory import checkpoint

CheckpointArgument = Annotated[str, typer.Argument(
    metavar="NAME", help="A checkpoint.", autocompletion=checkpoint_names, show_default=False)]


@command(None, "labctl checkpoint save before-exam --note 'rs2 is broken'",
         "labctl checkpoint save homework-3 --exercise", name="save", of=checkpoint_app)
def checkpoint_save(
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    lab_name: LabOption = None,
    note: Annotated[str, typer.Option("--note", help="A line to remember it by.", show_default=False)] = "",
    exercise: Annotated[bool, typer.Option(
        "--exercise", help="Labs that go on from it do not tell which steps are undone or look wrong.")] = False,
) -> None:
    """Keep a running lab as it is now: the memory and disks of all its nodes."""
    found = targets.one_lab(lab_name)
    must_be_open(found)
    found.must_not_hang(found.plan.nodes)
    with progress_of(found.plan.nodes) as progress:
        trouble = rewind.save_as(found, name, note, progress, exercise=exercise)
    err.print(f"Saved '{name}'. 'labctl checkpoint restore {name}' goes back to it; after 'labctl down', "
              f"'labctl up {found.name} --from {name}' starts from it.", markup=False, soft_wrap=True)
    if trouble and not found.record.exercise:
        err.print(f"It is broken, and will be when it is back: {trouble}", markup=False, soft_wrap=True)


@command(None, "labctl checkpoint restore before-exam", name="restore", of=checkpoint_app)
def checkpoint_restore(
    name: CheckpointArgument,
    lab_name: LabOption = None,
) -> None:
    """Put a running lab back to a checkpoint; what it is now is lost."""
    found = targets.one_lab(lab_name)
    must_be_open(found)
    with progress_of(found.plan.nodes) as progress:
        trouble = rewind.restore(found, name, progress)
    err.print(f"The lab '{found.name}' is back at '{name}'.", markup=False)
    if found.record.exercise:
        err.print(display.EXERCISE, soft_wrap=True)
    elif trouble:
        err.print(f"It was broken when it was saved: {trouble}", markup=False, soft_wrap=True)


@command(None, "labctl checkpoint list", name="list", of=checkpoint_app)
def checkpoint_list(lab_name: LabOption = None, output: OutputOption = Output.table) -> None:
    """List checkpoints, yours and those that 'up' has made ('configured'), with the disk space they take."""
    rows: list[dict[str, Any]] = [
        {"lab": each.lab, "checkpoint": each.name,
         "made": each.saved.made.isoformat(timespec="minutes") if each.saved else None,
         "size": checkpoint.size(each.home), "state": _state(each.saved),
         "note": each.saved.note if each.saved else ""} for each in rewind.checkpoints(lab_name)]
    if output is not Output.table:
        print_data(rows, output)
    elif rows:
        display.table(out, ["LAB", "CHECKPOINT", "MADE", "SIZE", "STATE", "NOTE"], [
            [row["lab"], row["checkpoint"], row["made"] or "", display.size(row["size"]), row["state"], row["note"]]
            for row in rows])
    else:
        err.print("There are no checkpoints. 'labctl checkpoint save NAME' makes one of a running lab.")


def _state(saved: checkpoint.Checkpoint | None) -> str:
    if saved is None:
        return "unreadable"
    return "exercise" if saved.exercise else "broken" if saved.trouble else "serves"


@command(None, "labctl checkpoint rm before-exam", name="rm", of=checkpoint_app)
def checkpoint_rm(
    name: CheckpointArgument,
    lab_name: LabOption = None,
) -> None:
    """Remove a checkpoint."""
    removed = rewind.remove_checkpoint(lab_name, name)
    err.print(f"The checkpoint '{name}' of '{removed}' is gone.", markup=False)
