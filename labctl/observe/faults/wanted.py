"""What people want broken: each function makes one kind of fault of it, or says why that makes no sense. Pure."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from pydantic import ValidationError

from labctl.base.errors import LabError
from labctl.base.suggest import did_you_mean
from labctl.labs.journal import Wanted, drops
from labctl.language.impair import FORMS, Impair
from labctl.machines.filters import matches
from labctl.plan.plan import Plan, PlannedNode

_PROGRAM = re.compile(r"[\w.+:-]{1,64}", re.ASCII)
_LONGEST_NAME = 15
"""What the kernel knows of a program's name (proc_pid_comm(5))."""
_WAY_IN = ("sshd", "systemd", "init", "sh", "bash", "dash")
"""Programs without which nothing can be put back on a node."""
_MOST_SKEW = 10 * 366 * 86_400
_WAY_IN_UNITS = ("ssh", "sshd", "ssh.socket", "sshd.socket", "systemd-logind")


def node_and_network(line: str) -> tuple[str, str | None]:
    """What `NODE:NETWORK`, or `NODE` for all of its networks, stands for."""
    node, colon, network = line.partition(":")
    return node, network if colon else None


def crash(plan: Plan, node: str) -> Wanted:
    """A node loses its power."""
    return Wanted(kind="crash", what=f"crash {node}", nodes=[plan.node(node).name])


def freeze(plan: Plan, node: str) -> Wanted:
    """A machine stands still."""
    return Wanted(kind="freeze", what=f"freeze {node}", nodes=[plan.node(node).name])


def unplug(plan: Plan, node: str, network: str | None = None) -> Wanted:
    """The cable of a node to a network, or to all of its networks, is pulled."""
    networks = _networks(plan.node(node), network)
    return Wanted(kind="unplug", what=f"unplug {node}:{network}" if network else f"unplug {node}", nodes=[node],
                  options={"networks": networks})


def cut(plan: Plan, one: Sequence[str], other: Sequence[str] = (), *, one_way: bool = False) -> Wanted:
    """Nothing passes between two groups of nodes, or, one way, from the first to the other.

    Where there is one group, the other is all that is not in it.
    """
    other = other or [node.name for node in plan.nodes if node.name not in one]
    named = [*one, *other]
    for name in named:
        if named.count(plan.node(name).name) > 1:
            raise LabError(f"The partition names '{name}' twice.", hint="A node is on one side of a cut.")
    words = [",".join(one), ",".join(other), *(["--one-way"] if one_way else [])]
    wanted = Wanted(kind="cut", what=f"cut {' '.join(words)}", nodes=named,
                    options={"one": [*one], "other": [*other], "one_way": one_way})
    if not drops(plan, [wanted]):
        raise LabError(f"Nothing goes directly between {' or '.join(map(repr, one))} and "
                       f"{' or '.join(map(repr, other)) or 'anybody'}: they share no network.",
                       hint="Cut each of them off the router between them.")
    return wanted


def block(plan: Plan, node: str, protocol: str, network: str | None = None) -> Wanted:
    """What a node sends and gets by a protocol is lost, on one network or on all of its own."""
    networks = _networks(plan.node(node), network)
    matches(protocol)
    return Wanted(kind="block", what=f"block {node}:{network} {protocol}" if network else f"block {node} {protocol}",
                  nodes=[node], options={"networks": networks, "protocol": protocol})


def stop(plan: Plan, node: str, service: str) -> Wanted:
    """A service of the topology, the units of a step, or a unit of systemd's is stopped."""
    planned = plan.node(node)
    by_name: dict[str, list[str]] = {}
    for step in planned.steps:
        for name in {step.name, step.service, *step.units} - {None}:
            units = [name] if name in step.units else step.units
            by_name[str(name)] = list(dict.fromkeys([*by_name.get(str(name), []), *units]))
    by_name = {name: units for name, units in by_name.items() if units}
    if service.removesuffix(".service") in _WAY_IN_UNITS:
        raise LabError(f"Without '{service}' nothing could be put back on '{node}': labctl reaches nodes by SSH.",
                       hint=f"'labctl fault unplug {node}' takes a node off its networks.")
    if service not in by_name and not service.endswith((".service", ".timer", ".socket")):
        raise LabError(f"'{node}' has no service called '{service}'.",
                       hint=f"{did_you_mean(service, by_name)} A unit of systemd's is written with its ending, as "
                            "'cron.service'.")
    return Wanted(kind="stop", what=f"stop {node} {service}", nodes=[node],
                  options={"units": " ".join(by_name.get(service, [service]))})


def units(plan: Plan, node: str, names: str) -> Wanted:
    """Units of systemd's on a node are stopped."""
    return Wanted(kind="stop", what=f"stop {node} {names}", nodes=[plan.node(node).name], options={"units": names})


def kill(plan: Plan, node: str, program: str) -> Wanted:
    """All processes of a program die."""
    return _program("kill", plan, node, program)


def hang(plan: Plan, node: str, program: str) -> Wanted:
    """All processes of a program stand still."""
    return _program("hang", plan, node, program)


def impair(plan: Plan, node: str, network: str | None = None, *, only: bool = False, **values: str) -> Wanted:
    """A line of a node, or all of its lines, is bad; `values` are those of `Impair`. With `only` it is no worse."""
    networks = _networks(plan.node(node), network)
    if not values:
        raise LabError("Nothing was said that the line should suffer.",
                       hint=f"Such as 'labctl fault impair {node} --delay 20ms'.")
    try:
        parsed = Impair.model_validate(values)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        context = detail.get("ctx", {})
        form = FORMS.get(str(context.get("pattern")))
        key = ".".join(map(str, detail["loc"]))
        said = f"'{detail['input']}' is not a {form}" if form else str(context.get("error", detail["msg"]))
        raise LabError(f"{f'--{key}: ' if key else ''}{said}.",
                       hint="'labctl fault impair -h' shows what a line can suffer.") from None
    what = [f"impair {node}:{network}" if network else f"impair {node}",
            *(f"--{key} {value}" for key, value in parsed if value is not None), *(["--only"] if only else [])]
    return Wanted(kind="impair", what=" ".join(what), nodes=[node],
                  options={"networks": networks, "impair": parsed.model_dump(exclude_unset=True), "only": only})


def fill(plan: Plan, node: str) -> Wanted:
    """The disk of a node is full."""
    return Wanted(kind="fill", what=f"fill {node}", nodes=[plan.node(node).name])


def skew(plan: Plan, node: str, seconds: float) -> Wanted:
    """The clock of a node is wrong by so many seconds: forward, or back where there are less than none."""
    if not 0.001 <= abs(seconds) <= _MOST_SKEW:
        raise LabError(f"A clock cannot be made wrong by {seconds:g} seconds.",
                       hint="Anything from a millisecond to ten years can be; '-60' puts it back by a minute.")
    return Wanted(kind="skew", what=f"skew {node} {seconds:g}", nodes=[plan.node(node).name],
                  options={"seconds": seconds})


def duplicate(plan: Plan, address: str, node: str) -> Wanted:
    """A node takes an address that another machine has, or might have."""
    planned = plan.node(node)
    try:
        wished = IPv4Address(address)
    except ValueError:
        raise LabError(f"'{address}' is no IPv4 address.",
                       hint=f"Such as 'labctl fault duplicate {planned.interfaces[0].address} NODE'.") from None
    if wished in [network.host for network in plan.networks]:
        raise LabError(f"{wished} is the physical machine's address, and labctl's way in.", hint="Choose another one.")
    for interface in planned.interfaces:
        if wished == interface.address:
            raise LabError(f"{wished} is the address of '{node}' itself.", hint="Choose another node for it.")
        if wished in IPv4Network(f"{interface.address}/{interface.prefix}", strict=False):
            return Wanted(kind="duplicate", what=f"duplicate {wished} {node}", nodes=[node],
                          options={"address": str(wished), "interface": interface.name})
    raise LabError(f"'{node}' is on no network that {wished} belongs to.",
                   hint="It is on " + ", ".join(f"{each.network} ({each.address}/{each.prefix})"
                                                for each in planned.interfaces) + ".")


def undo(plan: Plan, node: str, step: str) -> Wanted:
    """A step of a node is undone."""
    return Wanted(kind="undo", what=f"undo {node}/{step}", nodes=[node],
                  options={"step": plan.node(node).step(step).name})


def command(plan: Plan, node: str, do: str, heal: str) -> Wanted:
    """A command breaks something, and another one puts it back."""
    return Wanted(kind="command", what=f"command {node} {do.splitlines()[0][:40]}", nodes=[plan.node(node).name],
                  options={"do": do, "heal": heal})


def _program(kind: str, plan: Plan, node: str, program: str) -> Wanted:
    plan.node(node)
    if not _PROGRAM.fullmatch(program):
        raise LabError(f"'{program}' is not the name of a program.",
                       hint="A name is what 'ps -e' shows, as 'apache2' or 'keepalived'.")
    if program in _WAY_IN:
        raise LabError(f"Without '{program}' nothing could be put back on '{node}'.",
                       hint=f"'labctl fault freeze {node}' has all of the machine hang.")
    return Wanted(kind=kind, what=f"{kind} {node} {program}", nodes=[node],
                  options={"program": program, "pattern": re.escape(program[:_LONGEST_NAME])})


def _networks(node: PlannedNode, network: str | None) -> list[str]:
    """The network that is meant of a node's, or all of them. Raises LabError."""
    known = [interface.network for interface in node.interfaces]
    if network is not None and network not in known:
        raise LabError(f"'{node.name}' is on no network called '{network}'.", hint=did_you_mean(network, known))
    return known if network is None else [network]
