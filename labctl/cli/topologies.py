"""Commands for topologies and plans; they start nothing."""

import shlex
from typing import Annotated

import typer

from labctl.base.errors import InputError, LabError
from labctl.base.text import counted
from labctl.cli.common import (
    DataOutput,
    GuestOption,
    NameOption,
    Panel,
    SetOption,
    TopologyArgument,
    command,
    make_plan,
    print_data,
    say_next,
    topology_names,
)
from labctl.language import catalog, topology
from labctl.plan import guests


@command(Panel.topologies, "labctl plan lvs-dr -o json", name="plan")
def plan_(
    topology_: TopologyArgument,
    name: NameOption = None,
    guest: GuestOption = None,
    changes: SetOption = None,
    output: Annotated[DataOutput, typer.Option("--output", "-o", help="How to print it.")] = DataOutput.yaml,
) -> None:
    """Show the plan of a lab: nodes, addresses, MACs, steps, and digests."""
    planned = make_plan(topology_, name, guest, changes)
    shown = planned.model_dump(mode="json")
    for node, entry in zip(planned.nodes, shown["nodes"], strict=True):
        entry["digest"] = node.digest
    print_data(shown, output)


@command(Panel.topologies, "labctl new my --from lvs-dr")
def new(
    name: Annotated[str, typer.Argument(help="A name, for NAME.yaml in this directory, or a path.",
                                        show_default=False)],
    source: Annotated[str | None, typer.Option(
        "--from", metavar="TOPOLOGY", help="A topology's name, or a path to a file.",
        autocompletion=topology_names, show_default=False)] = None,
) -> None:
    """Begin a topology of your own with a copy of another one."""
    if source is None:
        raise LabError("A new topology begins as a copy of another one: '--from TOPOLOGY' is missing.",
                       hint="'labctl list --topologies' shows what there is.")
    path = catalog.copy(catalog.find(source), name)
    typed = shlex.quote(str(path) if path.is_absolute() else f"./{path}")
    say_next(f"'{path}' is a copy of '{source}'. Change it, then:", {
        f"labctl lint {typed}": "check it",
        f"labctl up {typed}": "start it",
    })


@command(Panel.topologies, "labctl lint ./my.yaml")
def lint(files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Topology files, or names.",
                                                    show_default=False)]) -> None:
    """Check topologies, and show all their errors at once, with lines."""
    failures = []
    for file in files:
        try:
            parsed = catalog.load(catalog.find(file))
            guests.load(parsed.guest or guests.DEFAULT)
            typer.echo(f"{file}: fine, {counted(len(parsed.nodes), 'node')}, "
                       f"{counted(len(parsed.services), 'service')}")
        except InputError as error:
            failures.append(error.message)
        except LabError as error:
            failures.append(f"{file}: {error.message} {error.hint}")
    if failures:
        raise LabError("\n".join(failures), hint="'labctl schema' prints what a topology may contain.")


@command(Panel.topologies, "labctl schema > topology.schema.json")
def schema() -> None:
    """Print the JSON Schema of the topology language, for editors."""
    print_data(topology.json_schema(), DataOutput.json)
