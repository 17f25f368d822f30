"""What a drill breaks: a fault in the words of the command line, and the block for which it is there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from inspect import signature

from labctl.base.errors import LabError
from labctl.base.suggest import did_you_mean
from labctl.labs.journal import Wanted
from labctl.language.services import Ipvs
from labctl.observe.faults import wanted
from labctl.observe.observer import Observer
from labctl.plan.plan import Plan


def fault(plan: Plan, words: Sequence[str]) -> Wanted:
    """The fault that words such as `crash lvs-m` stand for. Raises LabError."""
    kinds: dict[str, Callable[..., Wanted]] = {
        "crash": wanted.crash, "freeze": wanted.freeze, "unplug": _unplug, "cut": _cut, "block": _block,
        "impair": _impair, "stop": wanted.stop, "kill": wanted.kill, "hang": wanted.hang, "fill": wanted.fill,
        "skew": _skew, "duplicate": wanted.duplicate, "undo": _undo, "drain": drain}
    kind, *rest = words
    if kind not in kinds:
        raise LabError(f"There is no fault called '{kind}'.", hint=did_you_mean(kind, kinds))
    parameters = signature(kinds[kind])
    try:
        parameters.bind(plan, *rest)
    except TypeError:
        names = [name.upper() if each.default is each.empty else f"[{name.upper()}]"
                 for name, each in parameters.parameters.items() if name != "plan"]
        raise LabError(f"'{' '.join(words)}' is not a fault.", hint=f"It is '{kind} {' '.join(names)}'.") from None
    return kinds[kind](plan, *rest)


def _unplug(plan: Plan, line: str) -> Wanted:
    return wanted.unplug(plan, *wanted.node_and_network(line))


def _cut(plan: Plan, nodes: str, others: str = "") -> Wanted:
    return wanted.cut(plan, nodes.split(","), others.split(",") if others else [])


def _block(plan: Plan, line: str, protocol: str) -> Wanted:
    node, network = wanted.node_and_network(line)
    return wanted.block(plan, node, protocol, network)


def _impair(plan: Plan, line: str, *options: str) -> Wanted:
    node, network = wanted.node_and_network(line)
    words = [word for word in options if word != "--only"]
    values = {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=False)}
    return wanted.impair(plan, node, network, only="--only" in options, **values)


def _skew(plan: Plan, node: str, seconds: str) -> Wanted:
    try:
        return wanted.skew(plan, node, float(seconds))
    except ValueError:
        raise LabError(f"'{seconds}' is not a number of seconds.") from None


def _undo(plan: Plan, step: str) -> Wanted:
    return wanted.undo(plan, *step.split("/", 1)) if "/" in step else wanted.undo(plan, step, "")


def drain(plan: Plan, server: str) -> Wanted:
    """A real server gets no new connections: its weight is 0 in every director's table."""
    plan.node(server)
    if not _balancers(plan, server):
        servers = [name for service in plan.topology.services.values() if isinstance(service, Ipvs)
                   for name in service.real_servers]
        raise LabError(f"'{server}' is not a real server of the kernel's balancer.", hint=did_you_mean(server, servers))
    return Wanted(kind="drain", what=f"drain {server}", nodes=[server])


@contextmanager
def broken(observer: Observer, what: Wanted) -> Iterator[None]:
    """Break something for the length of the block. Raises LabError."""
    with ExitStack() as blocks:
        if what.kind == "drain":
            for director, take, give in _weights(observer.plan, what.nodes[0]):
                command = wanted.command(observer.plan, director, take, give)
                named = command.model_copy(update={"what": f"{what.what} on {director}"})
                blocks.enter_context(observer.faults.during(named))
        else:
            blocks.enter_context(observer.faults.during(what))
        yield


def _balancers(plan: Plan, server: str) -> list[Ipvs]:
    return [service for service in plan.topology.services.values()
            if isinstance(service, Ipvs) and server in service.real_servers]


def _weights(plan: Plan, server: str) -> Iterator[tuple[str, str, str]]:
    """The directors of a real server, and the commands that take its weight and give it back."""
    for service in _balancers(plan, server):
        way = {"dr": "-g", "nat": "-m", "tun": "-i"}[service.forward]
        address = f"{service.server_address(plan.topology, server)}:{service.table_port(service.server_port)}"
        edit = f"ipvsadm -e {service.virtual} -r {address} {way} -w"
        for director in service.directors.nodes:
            yield director, f"{edit} 0", f"{edit} {service.real_servers[server]}"
