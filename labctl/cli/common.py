"""What the commands share: the typer app, options and arguments, and ways of printing."""

import logging
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from labctl.base import config
from labctl.cli import display
from labctl.labs import lab, rewind
from labctl.language import catalog
from labctl.plan import guests, plan


class Panel(StrEnum):
    """The groups of commands in the help."""

    labs = "Labs"
    nodes = "Nodes"
    packets = "Packets"
    steps = "Steps"
    faults = "Faults"
    kept = "Saved labs"
    topologies = "Topologies"
    setup = "Setting up"


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="A one-page YAML topology becomes a running, proven Linux cluster of real VMs.")
checkpoint_app = typer.Typer(no_args_is_help=True, help="Save labs as they are now, and go back to that.")
app.add_typer(checkpoint_app, name="checkpoint", rich_help_panel=Panel.kept)
fault_app = typer.Typer(no_args_is_help=True, help="Break something on purpose: 'labctl heal' puts it back.")
app.add_typer(fault_app, name="fault", rich_help_panel=Panel.faults)
image_app = typer.Typer(no_args_is_help=True, help="The images that labs run on.")
app.add_typer(image_app, name="image", rich_help_panel=Panel.setup)
bundle_app = typer.Typer(no_args_is_help=True, help="Everything that a machine without a network needs, in one file.")
app.add_typer(bundle_app, name="bundle", rich_help_panel=Panel.setup)

Command = TypeVar("Command", bound=Callable[..., Any])


def command(panel: Panel | None, *examples: str, name: str | None = None, of: typer.Typer = app,
            context: dict[str, bool] | None = None) -> Callable[[Command], Command]:
    """Make a function a command of `of`, in a group of the help; its own help ends with the examples."""
    epilog = "\n".join(f"[dim]$[/] {escape(example)}" for example in examples)
    return of.command(name, rich_help_panel=panel, epilog=f"[bold]For example[/]\n{epilog}",
                      context_settings=context)


out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Output(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"
    yaml = "yaml"


class DataOutput(StrEnum):
    """How data is printed."""

    json = "json"
    yaml = "yaml"


class Events(StrEnum):
    """How events are printed."""

    text = "text"
    jsonl = "jsonl"


def lab_names() -> list[str]:
    """For completion."""
    return lab.names()


def topology_names() -> list[str]:
    """For completion."""
    return list(catalog.names())


def node_names() -> list[str]:
    """For completion."""
    nodes = [(found.name, node.name) for found in lab.labs() for node in found.plan.nodes]
    return [*(node for _, node in nodes), *(f"{name}/{node}" for name, node in nodes)]


def point_names() -> list[str]:
    """For completion."""
    return [*node_names(), *(network for found in lab.labs() for network in found.plan.topology.networks)]


def step_names() -> list[str]:
    """For completion."""
    plans = [lab.open_lab(name).plan for name in lab.names()]
    found = [(plan.lab, target) for plan in plans
             for target in (*(f"{node.name}/{step.name}" for node in plan.nodes for step in node.steps),
                            *plan.topology.services)]
    return [*(target for _, target in found), *(f"{name}/{target}" for name, target in found)]


def checkpoint_names() -> list[str]:
    """For completion."""
    return sorted({kept.name for kept in rewind.checkpoints()})


TopologyArgument = Annotated[str, typer.Argument(
    metavar="TOPOLOGY", help="A topology's name, or a path to a file.", autocompletion=topology_names,
    show_default=False)]
LabArgument = Annotated[str | None, typer.Argument(
    help="A lab's name; by default the only one that is up.", autocompletion=lab_names, show_default=False)]
NodeArgument = Annotated[str, typer.Argument(
    help="NODE, or LAB/NODE.", autocompletion=node_names, show_default=False)]
PatternArgument = Annotated[str, typer.Argument(
    metavar="NODE", help="NODE, LAB/NODE, or a pattern such as 'rs*'.", autocompletion=node_names,
    show_default=False)]
StepsArgument = Annotated[list[str], typer.Argument(
    metavar="NODE/STEP|SERVICE...", help="Steps or services; LAB/ may go before each.", autocompletion=step_names,
    show_default=False)]
LabOption = Annotated[str | None, typer.Option(
    "--lab", help="The lab; by default the only one that is up.", autocompletion=lab_names, show_default=False)]
NameOption = Annotated[str | None, typer.Option(
    "--name", envvar="LABCTL_NAME", help="The lab's name, if not the topology's.", show_default=False)]
GuestOption = Annotated[str | None, typer.Option(
    "--guest", envvar="LABCTL_GUEST", help="The operating system of the nodes.", autocompletion=guests.names,
    show_default=False)]
SetOption = Annotated[list[str] | None, typer.Option(
    "--set", metavar="PATH=VALUE", help="Change the topology, as in services.web.scheduler=wrr; may be repeated.",
    show_default=False)]
OutputOption = Annotated[Output, typer.Option("--output", "-o", envvar="LABCTL_OUTPUT", help="How to print it.")]

EventsOption = Annotated[Events, typer.Option(
    "--output", "-o", help="How to print what happens; 'jsonl' prints an object per line.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 (used by this option alone)

        typer.echo(f"labctl {version('cluster-labctl')}")
        raise typer.Exit


@app.callback()
def _main(
    verbose: Annotated[bool, typer.Option(
        "--verbose", "-v", envvar="LABCTL_VERBOSE", help="Show the commands that are run.")] = False,
    offline: Annotated[bool | None, typer.Option(
        "--offline/--online", envvar=config.OFFLINE, show_default=False,
        help="Refuse to open connections to other machines.")] = None,
    _show_version: Annotated[bool, typer.Option(
        "--version", help="Show the version.", callback=_version, is_eager=True)] = False,
) -> None:
    logging.basicConfig(format="+ %(message)s", level=logging.DEBUG if verbose else logging.WARNING)
    logging.getLogger("filelock").setLevel(logging.WARNING)
    if offline is not None:
        os.environ[config.OFFLINE] = "1" if offline else "0"


def make_plan(topology_: str, name: str | None, guest: str | None, changes: list[str] | None) -> plan.Plan:
    """The plan for a topology and options as typed on the command line. Raises LabError."""
    path = catalog.find(topology_)
    parsed = catalog.load(path, changes or ())
    chosen = guest or config.load().guest or parsed.guest or guests.DEFAULT
    return plan.make(parsed, catalog.lab_name(path, name), guests.load(chosen))


def print_data(value: Any, output: Output | DataOutput) -> None:
    """Print a value as JSON or YAML."""
    typer.echo(display.data(value, output.value))


def progress_of(nodes: Sequence[plan.PlannedNode], events: Events = Events.text) -> (
        display.LiveProgress | display.PlainProgress | display.JsonLines):
    """A display of the progress of nodes: live on a terminal, elsewhere a line per event."""
    if events is Events.jsonl:
        return display.JsonLines(out)
    return display.LiveProgress(err, nodes) if err.is_terminal else display.PlainProgress(err)


def say_next(done: str, commands: dict[str, str]) -> None:
    """Print what was done, and which commands make sense next."""
    width = max(map(len, commands))
    err.print(done, markup=False, soft_wrap=True)
    for command, purpose in commands.items():
        err.print(f"  {command:<{width}}  {purpose}", markup=False, soft_wrap=True)


def must_be_open(found: lab.Lab) -> None:
    """Raise LabError if the lab's machines are gone, or on another machine while labctl is offline."""
    found.must_be_open()
