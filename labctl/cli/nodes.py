"""Commands for access to nodes and their output."""

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from labctl.base import process
from labctl.base.errors import LabError
from labctl.cli import display
from labctl.cli.common import (
    LabArgument,
    NodeArgument,
    Panel,
    PatternArgument,
    command,
    err,
    must_be_open,
)
from labctl.labs import targets
from labctl.machines.host import Ability
from labctl.plan.domain import node_uuid

_EXEC_SECONDS = 600
_REMOTE = re.compile(r"((?:[\w-]+/)?[\w-]+):(.*)", re.DOTALL)
"""NODE:PATH or LAB/NODE:PATH. A local path that looks like this can be typed with './' before it."""

# What follows the node belongs to the command, so labctl looks for no options in it.
_VERBATIM = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@command(Panel.nodes, "labctl ssh rs1", "labctl ssh rs1 'ip addr | grep 10.10.10.100'", context=_VERBATIM)
def ssh(
    node: NodeArgument,
    words: Annotated[list[str] | None, typer.Argument(
        metavar="COMMAND", help="Run this instead of a login shell: one argument is a line for the node's shell, "
        "several are a command and its arguments, passed on unchanged. '--' may precede it.",
        show_default=False)] = None,
) -> None:
    """Log in to a node as root, or run a command there with its exit code."""
    found, planned = targets.one_node(node)
    must_be_open(found)
    found.must_run(planned)
    line = _shell_line(words or [])
    process.become(found.ssh.command(planned.name, line, terminal=not line or sys.stdin.isatty()))


@command(Panel.nodes, "labctl exec 'rs*' uptime", "labctl exec rs1 'dmesg | tail'", name="exec", context=_VERBATIM)
def exec_(
    target: PatternArgument,
    words: Annotated[list[str], typer.Argument(
        metavar="COMMAND", help="One argument is a line for the node's shell, several are a command and its arguments, "
        "passed on unchanged. '--' may precede it.", show_default=False)],
) -> None:
    """Run a command on one node or several; the exit code is the highest of theirs."""
    found, nodes = targets.some_nodes(target)
    must_be_open(found)
    line = _shell_line(words)
    if not line:
        raise LabError("The command is missing.", hint=f"'labctl exec {target} uptime' runs 'uptime'.")
    states = found.states()
    for node in nodes:
        found.must_run(node, states)
    codes = []
    for node in nodes:
        prefix = f"{node.name}: " if len(nodes) > 1 else ""
        with display.Passing(sys.stdout, prefix) as out, display.Passing(sys.stderr, prefix) as errors:
            codes.append(found.ssh.relay(node.name, line, out.write, errors.write, _EXEC_SECONDS * found.patience))
    raise typer.Exit(max(codes))


def _shell_line(words: Sequence[str]) -> str:
    """The line for the node's shell: a single word is a line already, several are a command and its arguments."""
    words = words[1:] if words[:1] == ["--"] else words
    return words[0] if len(words) == 1 else shlex.join(words)


@command(Panel.nodes, "labctl cp page.html rs1:/var/www/html/index.html", "labctl cp rs1:/var/log/syslog .",
         "labctl cp -r conf.d lvs-m:/etc/keepalived/")
def cp(
    paths: Annotated[list[str], typer.Argument(
        metavar="SOURCE... TARGET", help="Paths. NODE:PATH and LAB/NODE:PATH are on a node, where relative paths begin "
        "at /root.", show_default=False)],
    recursive: Annotated[bool, typer.Option(
        "--recursive", "-r", help="Copy directories with everything in them.")] = False,
) -> None:
    """Copy files to, from and between nodes; existing files are replaced, as by cp."""
    *sources, target = paths
    if not sources:
        raise LabError("'labctl cp' needs a source and a target.", hint=f"'labctl cp {target} .' copies it here.")
    remotes = {path: match for path in paths if (match := _REMOTE.fullmatch(path))}
    if not remotes:
        raise LabError("None of these paths is on a node.", hint="One on a node is NODE:PATH, as in 'rs1:/etc/hosts'.")
    nodes = {path: targets.one_node(match[1]) for path, match in remotes.items()}
    labs = {found.name: found for found, _ in nodes.values()}
    if len(labs) > 1:
        raise LabError(f"These paths are in several labs: {', '.join(labs)}.",
                       hint="Copy the files here first, and then from here.")
    found, = labs.values()
    must_be_open(found)
    states = found.states()
    for _, node in nodes.values():
        found.must_run(node, states)
    # scp takes anything with a slash before a colon for a local path.
    words = [f"{nodes[path][1].name}:{remotes[path][2]}" if path in remotes
             else path if path.startswith("/") else f"./{path}" for path in paths]
    with err.status("Copying"):
        found.ssh.copy(words[:-1], words[-1], recursive=recursive)


@command(Panel.nodes, "labctl console rs1")
def console(node: NodeArgument) -> None:
    """Attach to a node's serial console (leave it with Ctrl-])."""
    found, planned = targets.one_node(node)
    must_be_open(found)
    machine = node_uuid(found.record.id, planned.name)
    err.print(f"This is the console of '{planned.name}'; Ctrl-] leaves it, Enter shows a login prompt.", markup=False)
    process.become(["virsh", "-q", "-c", found.host.uri, "console", "--force", str(machine)])


@command(Panel.nodes, "labctl logs rs1", "labctl logs -f rs1")
def logs(
    node: NodeArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing as it grows.")] = False,
) -> None:
    """Print what a node has written to its serial console since it was made."""
    found, planned = targets.one_node(node)
    found.host.must(Ability.log)
    path = found.host.console(planned.name)
    if path is None or not path.exists():
        raise LabError(f"There is no log of the console of '{planned.name}'.",
                       hint=f"'labctl console {node}' attaches to the console itself.")
    with display.Passing(sys.stdout) as out:
        if follow:
            process.relay(["tail", "-n", "+1", "-f", path], out.write, out.write)
        else:
            with path.open("rb") as file:
                shutil.copyfileobj(file, out)


@command(Panel.nodes, "labctl ssh-config", name="ssh-config")
def ssh_config(name: LabArgument = None) -> None:
    """Print the path of an ssh_config for the lab's nodes: ssh -F "$(labctl ssh-config)" NODE."""
    found = targets.one_lab(name)
    must_be_open(found)
    typer.echo(found.ssh_config)
