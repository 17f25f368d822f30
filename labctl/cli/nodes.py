"""Commands for nodes and their steps."""

import shlex
import sys
from typing import Annotated

import typer

from labctl.base import process
from labctl.base.errors import LabError
from labctl.cli.common import (
    Events,
    EventsOption,
    LabArgument,
    NodeArgument,
    PatternArgument,
    StepsArgument,
    app,
    err,
    must_be_open,
    progress_of,
)
from labctl.labs import targets
from labctl.machines.host import Ability
from labctl.plan.domain import node_uuid


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def ssh(
    node: NodeArgument,
    command: Annotated[list[str] | None, typer.Argument(help="A command, instead of a shell.",
                                                        show_default=False)] = None,
) -> None:
    """Log in to a node as root, or run a command there with its exit code."""
    found, planned = targets.one_node(node)
    must_be_open(found)
    process.become(found.ssh.command(planned.name, *(command or []), terminal=not command or sys.stdin.isatty()))


@app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def exec_(
    target: PatternArgument,
    command: Annotated[list[str], typer.Argument(help="The command and its arguments.", show_default=False)],
) -> None:
    """Run a command on one node or several; the exit code is the highest of theirs."""
    found, nodes = targets.some_nodes(target)
    must_be_open(found)
    codes = []
    for node in nodes:
        result = found.ssh.run(node.name, shlex.join(command), timeout=600 * found.patience)
        prefix = f"{node.name}: " if len(nodes) > 1 else ""
        for stream, text in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
            stream.write("".join(f"{prefix}{line}\n" for line in text.splitlines()))
        codes.append(result.returncode)
    raise typer.Exit(max(codes))


@app.command()
def reboot(target: PatternArgument, output: EventsOption = Events.text) -> None:
    """Restart the system of a node or several, and return when the lab serves again."""
    found, nodes = targets.some_nodes(target)
    must_be_open(found)
    with progress_of(nodes, output) as progress:
        found.reboot(nodes, progress)
    err.print(f"The lab '{found.name}' serves again.", markup=False)


@app.command()
def console(node: NodeArgument) -> None:
    """Attach to a node's serial console (leave it with Ctrl-])."""
    found, planned = targets.one_node(node)
    must_be_open(found)
    machine = node_uuid(found.record.id, planned.name)
    process.become(["virsh", "-q", "-c", found.host.uri, "console", "--force", str(machine)])


@app.command()
def logs(
    node: NodeArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing as it grows.")] = False,
) -> None:
    """Print what a node said on its serial console since it was made."""
    found, planned = targets.one_node(node)
    found.host.must(Ability.log)
    path = found.host.console(planned.name)
    if path is None or not path.exists():
        raise LabError(f"There is no log of the console of '{planned.name}'.",
                       hint=f"'labctl console {node}' attaches to the console itself.")
    if follow:
        process.become(["tail", "-n", "+1", "-f", path])
    sys.stdout.write(path.read_text(errors="replace"))


@app.command("ssh-config")
def ssh_config(name: LabArgument = None) -> None:
    """Print the path of an ssh_config for the lab's nodes: ssh -F "$(labctl ssh-config)" NODE."""
    found = targets.one_lab(name)
    must_be_open(found)
    typer.echo(found.ssh_config)


@app.command()
def apply(target: StepsArgument) -> None:
    """Do a step on a node (again), or all steps of a service."""
    found, chosen = targets.some_steps(target)
    must_be_open(found)
    for node, step in chosen:
        found.apply(node, step)
        err.print(f"{node.name}/{step.name}: done", markup=False)


@app.command()
def undo(target: StepsArgument) -> None:
    """Take a step back on a node, or all steps of a service that are done, the last one first."""
    found, chosen = targets.some_steps(target)
    must_be_open(found)
    # A single step is taken back whatever its marker says: it may have failed halfway.
    applied = found.applied(found.states()) if len(chosen) > 1 else {}
    for node, step in reversed(chosen):
        done = applied.get(node.name)
        if done is not None and step.name not in done:
            err.print(f"{node.name}/{step.name}: was not done", markup=False)
            continue
        found.undo(node, step)
        err.print(f"{node.name}/{step.name}: undone", markup=False)
