"""The command line: the only module that prints."""

import logging
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from labctl import catalog, config, display, guests, lab, paths, plan, process, store, targets, topology
from labctl.errors import InputError, LabError
from labctl.steps import Step

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LABCTL"},
                  help="A one-page YAML topology becomes a running, proven Linux cluster of real VMs.")
image_app = typer.Typer(no_args_is_help=True, help="The images that labs run on.")
app.add_typer(image_app, name="image")

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


class Accel(StrEnum):
    """What runs the guests."""

    auto = "auto"
    kvm = "kvm"
    tcg = "tcg"


def _lab_names() -> list[str]:
    return lab.names()


def _topology_names() -> list[str]:
    return list(catalog.names())


def _node_names() -> list[str]:
    found = [(name, node.name) for name in lab.names() for node in lab.open_lab(name).plan.nodes]
    return [*(node for _, node in found), *(f"{name}/{node}" for name, node in found)]


TopologyArgument = Annotated[str, typer.Argument(
    metavar="TOPOLOGY", help="A topology's name, or a path to a file.", autocompletion=_topology_names,
    show_default=False)]
LabArgument = Annotated[str | None, typer.Argument(
    help="A lab's name; the only one that is up where it is left out.", autocompletion=_lab_names, show_default=False)]
NodeArgument = Annotated[str, typer.Argument(
    help="NODE, or LAB/NODE.", autocompletion=_node_names, show_default=False)]
NameOption = Annotated[str | None, typer.Option(
    "--name", envvar="LABCTL_NAME", help="The lab's name, if not the topology's.", show_default=False)]
GuestOption = Annotated[str | None, typer.Option(
    "--guest", envvar="LABCTL_GUEST", help="The operating system of the nodes.", autocompletion=guests.names,
    show_default=False)]
OutputOption = Annotated[Output, typer.Option("--output", "-o", envvar="LABCTL_OUTPUT", help="How to print it.")]
MirrorOption = Annotated[str | None, typer.Option(
    "--mirror", envvar="LABCTL_MIRROR", help=f"The Debian mirror to build from ({store.DEFAULT_MIRROR}).",
    show_default=False)]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 (used by this option alone)

        typer.echo(f"labctl {version('cluster-labctl')}")
        raise typer.Exit


@app.callback()
def _main(
    verbose: Annotated[bool, typer.Option(
        "--verbose", "-v", envvar="LABCTL_VERBOSE", help="Show the commands that are run.")] = False,
    _show_version: Annotated[bool, typer.Option(
        "--version", help="Show the version.", callback=_version, is_eager=True)] = False,
) -> None:
    logging.basicConfig(format="+ %(message)s", level=logging.DEBUG if verbose else logging.WARNING)
    logging.getLogger("filelock").setLevel(logging.WARNING)


def _plan(topology_: str, name: str | None, guest: str | None) -> plan.Plan:
    path = catalog.find(topology_)
    parsed = catalog.load(path)
    chosen = guest or config.load().guest or parsed.guest or guests.DEFAULT
    return plan.make(parsed, catalog.lab_name(path, name), guests.load(chosen))


def _data(value: Any, output: Output | DataOutput) -> None:
    typer.echo(display.data(value, output.value))


# ---- Labs ---------------------------------------------------------------------------------------------------


@app.command()
def up(
    topology_: TopologyArgument,
    name: NameOption = None,
    guest: GuestOption = None,
    accel: Annotated[Accel, typer.Option("--accel", envvar="LABCTL_ACCEL", help="What runs the guests.")] = Accel.auto,
    host: Annotated[str | None, typer.Option(
        "--host", envvar="LABCTL_HOST", help="A libvirt URI to use instead of a private room.",
        show_default=False)] = None,
    timeout: Annotated[float | None, typer.Option(
        "--timeout", envvar="LABCTL_TIMEOUT", min=1, help="Seconds that each readiness gate may take.",
        show_default=False)] = None,
    keep: Annotated[bool, typer.Option(
        "--keep", envvar="LABCTL_KEEP", help="Leave a lab that failed as it is, to look into it.")] = False,
) -> None:
    """Start a lab, and return when it serves."""
    planned = _plan(topology_, name, guest)
    chosen, remark = lab.accelerator(accel.value, planned, host)
    progress = display.LiveProgress(err, planned.nodes) if err.is_terminal else display.PlainProgress(err)
    with progress:
        if remark:
            progress.say(remark)
        started = lab.up(planned, chosen, host, progress, limit=timeout, keep=keep)
    suffix = "" if len(lab.names()) == 1 else f" {started.name}"
    hints = {
        f"labctl test{suffix}": "check that it does what it should",
        f"labctl ssh {_target(started, planned.nodes[0].name)}": "look around on a node",
        f"labctl steps {started.name}": "what was done to the nodes, and why",
        f"labctl down{suffix}": "remove it",
    }
    width = max(map(len, hints))
    err.print(f"\nThe lab '{started.name}' serves. Next:", markup=False)
    for command, purpose in hints.items():
        err.print(f"  {command:<{width}}  {purpose}", markup=False, soft_wrap=True)


@app.command()
def down(
    names: Annotated[list[str] | None, typer.Argument(
        metavar="[LAB]...", help="Labs; the only one that is up where none is named.", autocompletion=_lab_names,
        show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every lab that is up.")] = False,
) -> None:
    """Remove a lab: its machines, networks, disks and keys."""
    chosen = lab.names() if all_ else names or [targets.one_lab(None).name]
    failures = []
    for name in chosen:
        try:
            lab.down(name)
            err.print(f"The lab '{name}' is gone.", markup=False)
        except LabError as error:
            failures.append(error)
    if failures:
        raise LabError("\n".join(error.message for error in failures), failures[0].hint)


@app.command("list")
def list_(
    topologies: Annotated[bool, typer.Option("--topologies", help="What could be started, instead.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """List the labs that are up, or the topologies there are."""
    rows: list[dict[str, Any]]
    if topologies:
        rows = [_topology_row(name, path) for name, path in catalog.names().items()]
    else:
        labs = [lab.open_lab(name) for name in lab.names()]
        rows = [{"lab": item.name, "state": _state(item), "nodes": len(item.plan.nodes),
                 "guest": item.plan.guest.name, "title": item.plan.topology.title} for item in labs]
    if output is not Output.table:
        _data(rows, output)
    elif rows:
        cells = [[str(cell) for cell in row.values()] for row in rows]
        display.table(out, [column.upper() for column in rows[0]], cells)
    else:
        err.print("No lab is up. 'labctl list --topologies' shows what could be started.")


def _topology_row(name: str, path: Path) -> dict[str, Any]:
    try:
        parsed = catalog.load(path)
        return {"topology": name, "nodes": len(parsed.nodes), "title": parsed.title}
    except LabError:
        return {"topology": name, "nodes": 0, "title": f"has problems; 'labctl lint {path}' shows them"}


@app.command()
def status(name: LabArgument = None, output: OutputOption = Output.table) -> None:
    """Show the state of a lab's nodes."""
    found = targets.one_lab(name)
    states = found.states()
    if output is not Output.table:
        nodes = [{"node": node.name, "state": states[node.name], "memory": node.memory,
                  "addresses": {interface.network: str(interface.address) for interface in node.interfaces},
                  "steps": [step.name for step in node.steps]} for node in found.plan.nodes]
        _data({"version": 1, "lab": found.name, "state": _state(found), "guest": found.plan.guest.name,
               "accel": found.record.accel, "host": found.record.host, "plan": found.plan.digest, "nodes": nodes},
              output)
        return
    out.print(f"{found.name}: {found.plan.topology.title} ({found.plan.guest.name}, {found.record.accel}), "
              f"{_state(found)}", markup=False, soft_wrap=True)
    display.table(out, ["NODE", "STATE", "ADDRESSES", "MEMORY"], display.mapping_rows(states, found.plan.nodes))


def _state(found: lab.Lab) -> str:
    if not found.room.is_open():
        return "gone"
    return "up" if found.record.ready else "not ready"


def _target(found: lab.Lab, node: str) -> str:
    return node if len(lab.names()) == 1 else f"{found.name}/{node}"


# ---- Nodes --------------------------------------------------------------------------------------------------


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def ssh(
    node: NodeArgument,
    command: Annotated[list[str] | None, typer.Argument(help="A command, instead of a shell.",
                                                        show_default=False)] = None,
) -> None:
    """Log in to a node as root, or run a command there with its exit code."""
    found, planned = targets.one_node(node)
    _must_be_open(found)
    process.become(found.ssh.command(planned.name, *(command or []), terminal=not command or sys.stdin.isatty()))


@app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def exec_(
    target: Annotated[str, typer.Argument(help="NODE, LAB/NODE, or a pattern such as 'rs*'.",
                                          autocompletion=_node_names, show_default=False)],
    command: Annotated[list[str], typer.Argument(help="The command and its arguments.", show_default=False)],
) -> None:
    """Run a command on one node or several; the exit code is the highest of theirs."""
    found, nodes = targets.some_nodes(target)
    _must_be_open(found)
    codes = []
    for node in nodes:
        result = found.ssh.run(node.name, shlex.join(command), timeout=600 * found.patience)
        prefix = f"{node.name}: " if len(nodes) > 1 else ""
        for stream, text in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
            stream.write("".join(f"{prefix}{line}\n" for line in text.splitlines()))
        codes.append(result.returncode)
    raise typer.Exit(max(codes))


@app.command()
def console(node: NodeArgument) -> None:
    """Attach to a node's serial console (leave it with Ctrl-])."""
    found, planned = targets.one_node(node)
    _must_be_open(found)
    process.become(["virsh", "-q", "-c", found.room.uri, "console", "--force", str(planned.uuid)])


@app.command()
def logs(
    node: NodeArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing as it grows.")] = False,
) -> None:
    """Print what a node said on its serial console since it was made."""
    found, planned = targets.one_node(node)
    path = found.room.console(planned.name)
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
    _must_be_open(found)
    typer.echo(found.ssh_config)


@app.command()
def apply(step: Annotated[str, typer.Argument(help="NODE/STEP, or LAB/NODE/STEP.", show_default=False)]) -> None:
    """Do a step on a node (again)."""
    found, node, chosen = _step(step)
    found.apply(node, chosen)


@app.command()
def undo(step: Annotated[str, typer.Argument(help="NODE/STEP, or LAB/NODE/STEP.", show_default=False)]) -> None:
    """Take a step back on a node."""
    found, node, chosen = _step(step)
    found.undo(node, chosen)


def _step(target: str) -> tuple[lab.Lab, plan.PlannedNode, Step]:
    node_name, _, name = target.rpartition("/")
    if not node_name:
        raise LabError(f"'{target}' is no step; steps are called NODE/STEP.", hint="'labctl steps LAB' shows them.")
    found, node = targets.one_node(node_name)
    _must_be_open(found)
    return found, node, node.step(name)


def _must_be_open(found: lab.Lab) -> None:
    if not found.room.is_open():
        raise LabError(f"The lab '{found.name}' is gone; its machine was probably restarted.",
                       hint=f"'labctl down {found.name}' clears what is left, 'labctl up' starts it anew.")


# ---- Proof --------------------------------------------------------------------------------------------------


@app.command()
def test(
    name: LabArgument = None,
    expression: Annotated[str, typer.Option("-k", metavar="EXPR", help="Only the checks whose names match.")] = "",
    list_only: Annotated[bool, typer.Option("--list", help="Show the checks, run none.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit report.",
                                               show_default=False)] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write an HTML report.",
                                              show_default=False)] = None,
) -> None:
    """Check from the client that the lab does what it should."""
    from labctl import checks  # noqa: PLC0415 (pytest is loaded by this command alone)

    found = targets.one_lab(name)
    _must_be_open(found)
    raise typer.Exit(checks.run(found, out, expression=expression, list_only=list_only, junit=junit, html=html))


# ---- What would be --------------------------------------------------------------------------------------------


@app.command("plan")
def plan_(
    topology_: TopologyArgument,
    name: NameOption = None,
    guest: GuestOption = None,
    output: Annotated[DataOutput, typer.Option("--output", "-o", help="How to print it.")] = DataOutput.yaml,
) -> None:
    """Show all that a lab will be: nodes, addresses, MACs, steps, and the digests of each node and the whole."""
    planned = _plan(topology_, name, guest)
    shown = planned.model_dump(mode="json")
    for node, entry in zip(planned.nodes, shown["nodes"], strict=True):
        entry["digest"] = node.digest
    _data(shown, output)


@app.command()
def steps(
    name: Annotated[str, typer.Argument(metavar="LAB", help="A lab that is up, or a topology.",
                                        autocompletion=_topology_names, show_default=False)],
    node: Annotated[str | None, typer.Argument(help="Only this node.", show_default=False)] = None,
    guest: GuestOption = None,
) -> None:
    """Print what a person would type on the nodes, and why, as a readable sheet."""
    running = lab.open_lab(name).plan if name in lab.names() else None
    planned = running if running and guest in (None, running.guest.name) else _plan(name, None, guest)
    display.sheet(planned, [planned.node(node)] if node else planned.nodes, typer.echo)


@app.command()
def lint(files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Topology files, or names.",
                                                    show_default=False)]) -> None:
    """Check topologies; every error at once, with its line."""
    failures = []
    for file in files:
        try:
            parsed = catalog.load(catalog.find(file))
            guests.load(parsed.guest or guests.DEFAULT)
            typer.echo(f"{file}: fine, {len(parsed.nodes)} nodes, {len(parsed.services)} services")
        except InputError as error:
            failures.append(error.message)
        except LabError as error:
            failures.append(f"{file}: {error.message} {error.hint}")
    if failures:
        raise LabError("\n".join(failures), hint="'labctl schema' prints what a topology may contain.")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the topology language, for editors."""
    _data(topology.json_schema(), DataOutput.json)


@app.command()
def doctor() -> None:
    """Say what is missing for a private room, each with the command that mends it."""
    from labctl import doctor as examination  # noqa: PLC0415 (starts programs; used by this command alone)

    findings = examination.examine()
    for finding in findings:
        sign = {"fine": "[green]✓[/]", "slow": "[yellow]![/]", "missing": "[red]✗[/]"}[finding.verdict]
        out.print(f"{sign} ", end="")
        out.print(f"{finding.what}: {finding.detail}", markup=False, soft_wrap=True)
        if finding.mend:
            out.print(f"    {finding.mend}", markup=False, soft_wrap=True)
    missing = [finding for finding in findings if finding.verdict == "missing"]
    if missing:
        raise LabError(f"{len(missing)} of {len(findings)} things that a lab needs are missing.")


# ---- Images -------------------------------------------------------------------------------------------------


@image_app.command("list")
def image_list(output: OutputOption = Output.table) -> None:
    """List the images in the store."""
    found = store.images()
    if output is not Output.table:
        _data([{"image": image.name, "digest": image.manifest.digest, "built": image.manifest.built.isoformat(),
                "size": image.size} for image in found], output)
    elif found:
        display.table(out, ["IMAGE", "DIGEST", "BUILT", "SIZE"], [
            [image.name, image.manifest.digest[:12], f"{image.manifest.built:%Y-%m-%d %H:%M}", display.size(image.size)]
            for image in found])
    else:
        err.print(f"There are no images. 'labctl image build {guests.buildable().name}' builds one.")


@image_app.command("build")
def image_build(
    name: Annotated[str, typer.Argument(help="A guest.", autocompletion=guests.names, show_default=False)],
    mirror: MirrorOption = None,
) -> None:
    """Build a guest's image; needs no root."""
    guest = guests.load(name)
    log = paths.cache() / f"build-{name}.log"
    with err.status(f"Building {name}; the log is {log}"):
        image = store.build(guest, mirror or config.load().mirror or store.DEFAULT_MIRROR, log,
                            list(lab.images_in_use()))
    err.print(f"Built {name}: {display.size(image.size)}, {len(image.manifest.packages)} packages.", markup=False)


@image_app.command("inspect")
def image_inspect(
    name: Annotated[str, typer.Argument(help="An image.", show_default=False)],
    output: Annotated[DataOutput, typer.Option("--output", "-o", help="How to print it.")] = DataOutput.yaml,
) -> None:
    """Show what an image is made of."""
    image = store.find(name)
    _data({"image": name, "digest": image.manifest.digest, "path": str(image.path),
           **image.manifest.model_dump(mode="json")}, output)


@image_app.command("rm")
def image_rm(name: Annotated[str, typer.Argument(help="An image.", show_default=False)]) -> None:
    """Remove an image from the store."""
    digest = store.find(name).manifest.digest
    store.remove(name, lab.images_in_use().get(digest, []))
    err.print(f"The image '{name}' is gone.", markup=False)
