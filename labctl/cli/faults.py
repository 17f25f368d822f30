"""Commands that break something on purpose, and put it back."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from labctl.base.errors import LabError
from labctl.base.progress import Progress
from labctl.base.suggest import did_you_mean
from labctl.cli import display
from labctl.cli.common import (
    LabArgument,
    LabOption,
    NodeArgument,
    Output,
    OutputOption,
    Panel,
    command,
    err,
    fault_app,
    must_be_open,
    node_names,
    out,
    print_data,
    progress_of,
    step_names,
)
from labctl.labs import lab, targets
from labctl.labs.journal import Fault, Journal, Wanted
from labctl.labs.lab import Lab, locked
from labctl.machines.filters import PROTOCOLS
from labctl.observe.faults import wanted
from labctl.plan.plan import Plan

if TYPE_CHECKING:
    from labctl.observe.faults.faults import Faults

_LONGEST = 7 * 86_400
LOCK_SECONDS = 3
"""A fault may be healing by itself just now."""


def line_names() -> list[str]:
    """For completion."""
    pairs = [(node.name, interface.network) for found in lab.labs() for node in found.plan.nodes
             for interface in node.interfaces]
    return [*node_names(), *(f"{node}:{network}" for node, network in pairs)]


def service_names() -> list[str]:
    """For completion."""
    plans = [found.plan for found in lab.labs()]
    return sorted({name for plan in plans for node in plan.nodes for step in node.steps if step.units
                   for name in (step.service or step.name, step.name, *step.units)})


def fault_names() -> list[str]:
    """For completion."""
    faults = [(found.name, fault) for found in lab.labs() for fault in Journal(found.directory).faults()]
    ids = [str(fault.id) for _, fault in faults]
    return [*ids, *(f"{name}/{fault.id}" for name, fault in faults),
            *sorted({node for _, fault in faults for node in fault.nodes})]


LineArgument = Annotated[str, typer.Argument(
    metavar="NODE[:NETWORK]", help="A node, or its cable to one network; LAB/ may go before it.",
    autocompletion=line_names, show_default=False)]
ProgramArgument = Annotated[str, typer.Argument(help="Its name, as 'ps -e' shows it.", show_default=False)]
ForOption = Annotated[float | None, typer.Option(
    "--for", metavar="SECONDS", min=0.1, max=_LONGEST, help="Heal by itself after so long.", show_default=False)]


@command(None, "labctl fault crash lvs-m", "labctl fault crash lvs-m --for 30", of=fault_app)
def crash(node: NodeArgument, seconds: ForOption = None) -> None:
    """Cut a node's power; when that heals, it boots."""
    _make(node, wanted.crash, seconds)


@command(None, "labctl fault freeze lvs-m", of=fault_app)
def freeze(node: NodeArgument, seconds: ForOption = None) -> None:
    """Have a machine stand still: it is silent, but its port is up, and others still know its address."""
    _make(node, wanted.freeze, seconds)


@command(None, "labctl fault unplug rs1", "labctl fault unplug lvs:lan", of=fault_app)
def unplug(line: LineArgument, seconds: ForOption = None) -> None:
    """Pull a node's cable to a network, or all of them: its carrier is gone."""
    node, network = wanted.node_and_network(line)
    _make(node, lambda plan, name: wanted.unplug(plan, name, network), seconds)


@command(None, "labctl fault cut lvs-m lvs-s", "labctl fault cut lvs-m,lvs-s 'rs*' --one-way",
         "labctl fault cut client", of=fault_app)
def cut(
    one: Annotated[str, typer.Argument(
        metavar="NODE[,NODE]...", help="A node, or several; LAB/ may go before them, and 'rs*' are all of that name.",
        autocompletion=node_names, show_default=False)],
    other: Annotated[str | None, typer.Argument(
        metavar="[NODE[,NODE]...]", help="The other side; all other nodes where it is left out.",
        autocompletion=node_names, show_default=False)] = None,
    one_way: Annotated[bool, typer.Option("--one-way", help="Only from the first side to the other.")] = False,
    seconds: ForOption = None,
) -> None:
    """Have nothing pass between nodes that are on one network: a partition, split brain."""
    first, *more = one.split(",")
    found, nodes = targets.some_nodes(first)
    here = [*(node.name for node in nodes), *_named(found, more)]
    _make_in(found, wanted.cut(found.plan, here, _named(found, other.split(",") if other else []), one_way=one_way),
             seconds)


def _named(found: Lab, patterns: Sequence[str]) -> list[str]:
    return [node.name for pattern in patterns
            for node in targets.some_nodes(f"{found.name}/{pattern.removeprefix(f'{found.name}/')}")[1]]


@command(None, "labctl fault block lvs-m vrrp", "labctl fault block rs1:lan tcp/80 --for 60", of=fault_app)
def block(
    line: LineArgument,
    protocol: Annotated[str, typer.Argument(
        help=f"{', '.join(PROTOCOLS)}, or a port such as tcp/8080.", autocompletion=lambda: [*PROTOCOLS],
        show_default=False)],
    seconds: ForOption = None,
) -> None:
    """Have what a node sends to other nodes and gets from them by one protocol get lost."""
    node, network = wanted.node_and_network(line)
    _make(node, lambda plan, name: wanted.block(plan, name, protocol, network), seconds)


@command(None, "labctl fault impair rs1 --delay 20ms --loss 1%", "labctl fault impair lvs:lan --rate 1mbit --only",
         of=fault_app)
def impair(
    line: LineArgument,
    delay: Annotated[str, typer.Option(metavar="TIME", help="Of each packet, such as 20ms.", show_default=False)] = "",
    jitter: Annotated[str, typer.Option(metavar="TIME", help="By how much the delay varies.", show_default=False)] = "",
    loss: Annotated[str, typer.Option(metavar="SHARE", help="Packets that are lost, such as 1%.",
                                      show_default=False)] = "",
    rate: Annotated[str, typer.Option(metavar="RATE", help="At most so much, such as 10mbit.",
                                      show_default=False)] = "",
    duplicate: Annotated[str, typer.Option(metavar="SHARE", help="Packets that come twice.", show_default=False)] = "",
    reorder: Annotated[str, typer.Option(metavar="SHARE", help="Packets that overtake those that are delayed.",
                                         show_default=False)] = "",
    corrupt: Annotated[str, typer.Option(metavar="SHARE", help="Packets with a wrong bit.", show_default=False)] = "",
    only: Annotated[bool, typer.Option("--only", help="Instead of what the topology and other faults do to the line; "
                                                      "otherwise it is added to that.")] = False,
    seconds: ForOption = None,
) -> None:
    """Make a node's line bad, or all of its lines, both ways."""
    node, network = wanted.node_and_network(line)
    values = {"delay": delay, "jitter": jitter, "loss": loss, "rate": rate, "duplicate": duplicate,
              "reorder": reorder, "corrupt": corrupt}
    _make(node, lambda plan, name: wanted.impair(plan, name, network, only=only,
                                                 **{key: value for key, value in values.items() if value}), seconds)


@command(None, "labctl fault stop rs1 httpd", "labctl fault stop rs1 cron.service", of=fault_app)
def stop(
    node: NodeArgument,
    service: Annotated[str, typer.Argument(
        help="A service of the topology, a step with units, or a unit of systemd's.", autocompletion=service_names,
        show_default=False)],
    seconds: ForOption = None,
) -> None:
    """Stop a service on a node, in good order."""
    _make(node, lambda plan, name: wanted.stop(plan, name, service), seconds)


@command(None, "labctl fault kill lvs-m keepalived", of=fault_app)
def kill(node: NodeArgument, program: ProgramArgument, seconds: ForOption = None) -> None:
    """Kill all processes of a program; when that heals, its unit is started if it is not running."""
    _make(node, lambda plan, name: wanted.kill(plan, name, program), seconds)


@command(None, "labctl fault hang rs1 apache2 --for 20", of=fault_app)
def hang(node: NodeArgument, program: ProgramArgument, seconds: ForOption = None) -> None:
    """Have all processes of a program stand still: its ports are open, and nobody answers."""
    _make(node, lambda plan, name: wanted.hang(plan, name, program), seconds)


@command(None, "labctl fault fill rs1", of=fault_app)
def fill(node: NodeArgument, seconds: ForOption = None) -> None:
    """Fill a node's disk, to its last block."""
    _make(node, wanted.fill, seconds)


@command(None, "labctl fault skew rs1 300", "labctl fault skew C7B1 -0.5", of=fault_app,
         context={"ignore_unknown_options": True})
def skew(
    node: NodeArgument,
    by: Annotated[float, typer.Argument(metavar="SECONDS", help="Forward, or back with '-'.", show_default=False)],
    seconds: ForOption = None,
) -> None:
    """Put a node's clock forward or back; when that heals, it is set right."""
    _make(node, lambda plan, name: wanted.skew(plan, name, by), seconds)


@command(None, "labctl fault duplicate 10.10.10.100 client", of=fault_app)
def duplicate(
    address: Annotated[str, typer.Argument(help="One that another machine has, such as a VIP.", show_default=False)],
    node: NodeArgument,
    seconds: ForOption = None,
) -> None:
    """Have a node take an address that another machine has, and say so to all."""
    _make(node, lambda plan, name: wanted.duplicate(plan, address, name), seconds)


@command(None, "labctl fault undo rs1/arp", of=fault_app)
def undo(step: Annotated[str, typer.Argument(
        metavar="NODE/STEP", help="A step, or a service for all of its steps; LAB/ may go before it.",
        autocompletion=step_names, show_default=False)], seconds: ForOption = None) -> None:
    """Take a step back: a mistake in the configuration. When that heals, it is done again."""
    found, steps = targets.some_steps(step)
    for node, each in reversed(steps):
        _make_in(found, wanted.undo(found.plan, node.name, each.name), seconds)


@command(Panel.faults, "labctl faults", "labctl faults -o json")
def faults(name: LabArgument = None, output: OutputOption = Output.table) -> None:
    """List what is broken on purpose, and since when."""
    found = targets.one_lab(name)
    in_force = Journal(found.directory).faults()
    if output is not Output.table:
        print_data({"version": 1, "lab": found.name, "faults": rows(in_force)}, output)
    elif in_force:
        display.table(out, ["ID", "FAULT", "SINCE", "HEALS", "BY"], [
            [str(fault.id), fault.what, f"{fault.since.astimezone():%H:%M:%S}", _heals(fault),
             "" if fault.by == "user" else "a check"] for fault in in_force])
    else:
        err.print(f"Nothing is broken on purpose in the lab '{found.name}'.", markup=False)


@command(Panel.faults, "labctl heal", "labctl heal 3", "labctl heal lvs-m", "labctl heal --all")
def heal(
    target: Annotated[str | None, typer.Argument(
        metavar="[ID|NODE]", help="A fault, or all faults of a node; LAB/ may go before it. The only one there is if "
        "it is left out.", autocompletion=fault_names, show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="All faults of the lab.")] = False,
    name: LabOption = None,
) -> None:
    """Put back what is broken on purpose, in any order."""
    from labctl.observe.faults.faults import Faults  # noqa: PLC0415 (loads what other commands do not need)

    before, _, target_ = (target or "").rpartition("/")
    found = targets.one_lab(before or name)
    must_be_open(found)
    with locked(found.name, LOCK_SECONDS):
        there = Faults(found)
        chosen = _chosen(found, there.in_force(), target_, all_=all_)
        booting = [found.plan.node(fault.nodes[0]) for fault in chosen if fault.kind == "crash"]
        with progress_of(booting) as progress:
            heal_each(there, chosen, progress)


def heal_each(there: "Faults", chosen: Sequence[Fault], progress: Progress) -> None:
    """Put faults back, each whatever becomes of the others, in an order in which that can be. Raises LabError."""
    failures = []
    # The way in comes first, and what takes long last.
    for fault in sorted(chosen, key=lambda fault: {"unplug": 0, "freeze": 1, "crash": 3}.get(fault.kind, 2)):
        if fault.id not in {each.id for each in there.in_force()}:
            continue  # It has ended together with one that was healed just now.
        try:
            done = there.heal(fault, progress)
        except LabError as error:
            failures.append(error)
            continue
        progress.say(f"{fault.id}: '{fault.what}' is healed." if done else
                     f"{fault.id}: '{fault.what}' heals as soon as '{fault.nodes[0]}' can be reached.")
    if failures:
        raise LabError("\n".join(error.message for error in failures), failures[0].hint)


def _chosen(found: Lab, in_force: list[Fault], target: str, *, all_: bool) -> list[Fault]:
    """The faults that are meant. Raises LabError with the candidates."""
    if all_ and target:
        raise LabError(f"'--all' and '{target}' do not go together.", hint="'--all' are all faults of the lab.")
    if target:
        numbers = {str(fault.id): fault for fault in in_force}
        nodes = [node.name for node in found.plan.nodes]
        if target in numbers:
            return [numbers[target]]
        if target in nodes:
            chosen = [fault for fault in in_force if target in fault.nodes]
            if not chosen:
                raise LabError(f"Nothing is broken on purpose at '{target}'.", hint=_known(in_force))
        else:
            if target.isdigit():
                raise LabError(f"No fault {target} is in force.", hint=_known(in_force))
            raise LabError(f"The lab '{found.name}' has no node called '{target}'.", hint=did_you_mean(target, nodes))
    elif not in_force:
        raise LabError(f"Nothing is broken on purpose in the lab '{found.name}'.")
    elif len(in_force) > 1 and not all_:
        raise LabError("Several faults are in force; say which.", hint=f"{_known(in_force)} '--all' heals all of them.")
    else:
        chosen = in_force
    return chosen


def _known(in_force: list[Fault]) -> str:
    return f"There are: {', '.join(f'{fault.id} ({fault.what})' for fault in in_force)}." if in_force else ""


def rows(in_force: list[Fault]) -> list[dict[str, object]]:
    """Faults as other programs get them."""
    return [fault.model_dump(mode="json") for fault in in_force]


def _heals(fault: Fault) -> str:
    if fault.over:
        return f"when {fault.nodes[0]} can be reached"
    return f"{fault.until.astimezone():%H:%M:%S}" if fault.until else ""


def _make(target: str, want: Callable[[Plan, str], Wanted], seconds: float | None) -> None:
    """Make a fault that is about one node."""
    found, node = targets.one_node(target)
    _make_in(found, want(found.plan, node.name), seconds)


def _make_in(found: Lab, want: Wanted, seconds: float | None) -> None:
    from labctl.observe.faults.faults import Faults  # noqa: PLC0415 (loads what other commands do not need)

    must_be_open(found)
    with locked(found.name, LOCK_SECONDS):
        fault = Faults(found).make(want, seconds)
    heals = f"in {seconds:g} s by itself, or by" if seconds else "by"
    suffix = f"{found.name}/{fault.id}" if len(lab.names()) > 1 else fault.id
    err.print(f"{fault.id}: '{fault.what}' is in force. It heals {heals} 'labctl heal {suffix}'.", markup=False,
              soft_wrap=True)
