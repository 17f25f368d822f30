"""Commands for a lab as a whole."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from labctl.base.errors import LabError
from labctl.base.text import these
from labctl.cli import display
from labctl.cli.common import (
    Events,
    EventsOption,
    GuestOption,
    LabArgument,
    NameOption,
    Output,
    OutputOption,
    Panel,
    SetOption,
    TopologyArgument,
    checkpoint_names,
    command,
    err,
    lab_names,
    make_plan,
    must_be_open,
    node_names,
    out,
    print_data,
    progress_of,
    say_next,
)
from labctl.labs import lab, leftovers, lifecycle, record, rewind, targets
from labctl.labs.journal import Journal
from labctl.language import catalog
from labctl.plan import plan


class Accel(StrEnum):
    """The accelerator that runs the guests."""

    auto = "auto"
    kvm = "kvm"
    tcg = "tcg"


@command(Panel.labs, "labctl up lvs-dr-keepalived", "labctl up ./my.yaml --set services.web.scheduler=wrr")
def up(
    topology_: TopologyArgument,
    name: NameOption = None,
    guest: GuestOption = None,
    changes: SetOption = None,
    accel: Annotated[Accel, typer.Option("--accel", envvar="LABCTL_ACCEL", help="What runs the guests.")] = Accel.auto,
    host: Annotated[str | None, typer.Option(
        "--host", envvar="LABCTL_HOST", help="A libvirt URI to use instead of a private room.",
        show_default=False)] = None,
    timeout: Annotated[float | None, typer.Option(
        "--timeout", envvar="LABCTL_TIMEOUT", min=1, help="Seconds that each readiness gate may take.",
        show_default=False)] = None,
    keep: Annotated[bool, typer.Option(
        "--keep", envvar="LABCTL_KEEP", help="Leave a lab that failed as it is, to look into it.")] = False,
    cold: Annotated[bool, typer.Option(
        "--cold", envvar="LABCTL_COLD", help="Boot, even if the lab could start from its configured checkpoint."),
    ] = False,
    once: Annotated[bool, typer.Option(
        "--once", envvar="LABCTL_ONCE",
        help="Boot, and save nothing for 'reset' and the next start; for CI.")] = False,
    start: Annotated[str | None, typer.Option(
        "--from", metavar="CHECKPOINT", help="Start from a checkpoint of yours.", autocompletion=checkpoint_names,
        show_default=False)] = None,
    output: EventsOption = Events.text,
) -> None:
    """Start a lab and wait until it serves."""
    planned = make_plan(topology_, name, guest, changes)
    chosen, remark = lifecycle.accelerator(accel.value, host)
    with progress_of(planned.nodes, output) as progress:
        if remark:
            progress.say(remark)
        started = lifecycle.up(planned, chosen, host, progress, limit=timeout, keep=keep, cold=cold, start=start,
                               once=once)
    suffix = "" if len(lab.names()) == 1 else f" {started.name}"
    trouble = started.record.trouble
    state = f"is as it was saved, broken: {trouble}" if trouble else "serves."
    if started.record.exercise:
        state = "is as it was saved, as an exercise: what is wrong with it is for you to find."
    say_next(f"\nThe lab '{started.name}' {state} Next:", {
        f"labctl test{suffix}": "check that it does what it should",
        f"labctl ssh {_target(started, planned.nodes[0].name)}": "look around on a node",
        f"labctl steps {started.name}": "what was done to the nodes, and why",
        f"labctl down{suffix}": "remove it",
    })


@command(Panel.labs, "labctl down", "labctl down --all")
def down(
    names: Annotated[list[str] | None, typer.Argument(
        metavar="[LAB]...", help="Labs; by default the only one that is up.", autocompletion=lab_names,
        show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every lab that is up.")] = False,
    force: Annotated[bool, typer.Option(
        "--force", help="Also remove a lab that has no record, by its name or id, or that cannot be removed entirely."),
    ] = False,
    host: Annotated[str | None, typer.Option(
        "--host", metavar="URI", help="With --force and a lab's id: the libvirt of a lab without a record.",
        show_default=False)] = None,
) -> None:
    """Remove a lab: its machines, networks, disks and keys."""
    chosen = lab.names() if all_ else names or [targets.one_lab(None).name]
    failures = []
    for name in chosen:
        try:
            lifecycle.down(name, force=force, host=host)
            err.print(f"The lab '{name}' is gone.", markup=False)
        except LabError as error:
            failures.append(error)
    _raise(failures)


def _raise(failures: list[LabError]) -> None:
    if failures:
        raise LabError("\n".join(error.message for error in failures), failures[0].hint)


@command(Panel.labs, "labctl list", "labctl list --topologies -o json", name="list")
def list_(
    topologies: Annotated[bool, typer.Option("--topologies", help="List what could be started, instead.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """List the labs that are up, or the topologies there are."""
    rows: list[dict[str, Any]]
    if topologies:
        rows = [_topology_row(name, path) for name, path in catalog.names().items()]
    else:
        rows = [_lab_row(name) for name in lab.names()]
    if output is not Output.table:
        print_data(rows, output)
    elif rows:
        cells = [["" if cell is None else str(cell) for cell in row.values()] for row in rows]
        display.table(out, [column.upper() for column in rows[0]], cells)
    else:
        err.print("No lab is up. 'labctl list --topologies' shows what could be started.")


def _lab_row(name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"lab": name, "state": "gone", "nodes": None, "guest": None, "title": None}
    try:
        known = record.load(name)
        found = lab.Lab(known)
        row["state"] = known.elsewhere or _state(found)
    except record.Unreadable as error:
        return {**row, "state": error.state}
    except FileNotFoundError:  # It was taken down meanwhile.
        return row
    try:
        planned = found.plan
    except record.Unreadable:
        return row
    return {**row, "nodes": len(planned.nodes), "guest": planned.guest.name, "title": planned.topology.title}


def _topology_row(name: str, path: Path) -> dict[str, Any]:
    try:
        parsed = catalog.load(path)
        return {"topology": name, "nodes": len(parsed.nodes), "title": parsed.title}
    except LabError:
        return {"topology": name, "nodes": 0, "title": f"has problems; 'labctl lint {path}' shows them"}


@command(Panel.labs, "labctl status")
def status(name: LabArgument = None, output: OutputOption = Output.table) -> None:
    """Show the state of a lab's nodes, which of their steps were done, and who holds each VIP."""
    found = targets.one_lab(name)
    states = found.states()
    applied = found.applied(states)
    broken = Journal(found.directory).faults()
    holders = found.holders([name for name, done in applied.items() if done is not None])
    if found.record.exercise:
        applied = dict.fromkeys(applied)
    if output is not Output.table:
        nodes = [{"node": node.name, "state": states[node.name], "memory": node.memory,
                  "addresses": {interface.network: str(interface.address) for interface in node.interfaces},
                  "steps": _step_states(node, applied[node.name])} for node in found.plan.nodes]
        print_data({"version": 2, "lab": found.name, "state": _state(found), "exercise": found.record.exercise,
                    "guest": found.plan.guest.name, "accel": found.record.accel, "host": found.record.libvirt_uri,
                    "plan": found.plan.digest, "nodes": nodes,
                    "faults": [fault.model_dump(mode="json") for fault in broken],
                    "vips": {str(address): held for address, held in holders.items()}}, output)
        return
    out.print(f"{found.name}: {found.plan.topology.title} ({found.plan.guest.name}, {found.record.accel}), "
              f"{_state(found)}", markup=False, soft_wrap=True)
    display.table(out, ["NODE", "STATE", "ADDRESSES", "MEMORY", "STEPS ON RECORD"],
                  display.mapping_rows(states, applied, found.plan.nodes))
    if found.record.exercise:
        out.print(display.EXERCISE, soft_wrap=True)
    for address, held in holders.items():
        out.print(f"{address}: {_who_holds(held)}", markup=False, soft_wrap=True)
    for fault in broken:
        out.print(f"broken on purpose: {fault.what} ('labctl heal {fault.id}' puts it back)", markup=False,
                  soft_wrap=True)


def _step_states(node: plan.PlannedNode, applied: set[str] | None) -> list[dict[str, Any]]:
    return [{"name": step.name, "applied": None if applied is None else step.name in applied} for step in node.steps]


def _who_holds(held: Mapping[str, bool | None]) -> str:
    holding = [name for name, has in held.items() if has]
    silent = [name for name, has in held.items() if has is None]
    if not silent:
        return f"{these(holding, 'holds', 'hold')} it"
    known = f"{these(holding, 'holds', 'hold')} it, and " if holding else ""
    return f"{known}{these(silent, 'does', 'do')} not answer"


def _state(found: lab.Lab) -> str:
    if not found.host.is_open():
        return "gone"
    return "up" if found.record.ready and not found.held else "not ready"


def _target(found: lab.Lab, node: str) -> str:
    return node if len(lab.names()) == 1 else f"{found.name}/{node}"


@command(Panel.labs, "labctl reset", "labctl reset rs1")
def reset(
    target: Annotated[str | None, typer.Argument(
        metavar="[LAB|NODE]", help="A lab, or a node of one; by default the only lab that is up.",
        autocompletion=node_names, show_default=False)] = None,
    output: EventsOption = Events.text,
) -> None:
    """Put a lab, or one of its nodes, back to its configured state, whatever was done to it."""
    if target is None or target in lab.names():
        found = targets.one_lab(target)
        nodes = found.plan.nodes
    else:
        found, node = targets.one_node(target)
        nodes = [node]
    must_be_open(found)
    with progress_of(nodes, output) as progress:
        rewind.reset(found, nodes, progress)
    err.print(f"The lab '{found.name}' serves as it did when it was new.", markup=False)


@command(Panel.kept, "labctl gc --older-than 14", "labctl gc --larger-than 5")
def gc(
    days: Annotated[float | None, typer.Option("--older-than", metavar="DAYS", min=0, show_default=False,
                                               help="Remove configured checkpoints not used for this long.")] = None,
    gib: Annotated[float | None, typer.Option("--larger-than", metavar="GIB", min=0, show_default=False,
                                              help="Remove the oldest ones until they take no more.")] = None,
    host: Annotated[str | None, typer.Option(
        "--host", metavar="URI", help="Also look at this libvirt, in addition to those of labs that are up.",
        show_default=False)] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove what is left of labs if labctl was killed or a record was lost. With an age or a size also remove old
    configured checkpoints, from which labs start quickly. Your own checkpoints stay."""
    said, strangers, failures = leftovers.collect(dry=dry) + rewind.gc(days, gib, dry=dry), [], []
    for uri in sorted({*leftovers.libvirts(), *([host] if host else [])}):
        try:
            said += leftovers.collect_at(uri, dry=dry)
            strangers += leftovers.strangers(uri)
        except LabError as error:
            failures.append(error)
    for each in said:
        err.print(f"{'Would remove' if dry else 'Removed'}: {each}.", markup=False, soft_wrap=True)
    for each in strangers:
        err.print(each, markup=False, soft_wrap=True)
    _raise(failures)
    if not said:
        err.print("There is nothing to remove.")
