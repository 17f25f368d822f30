"""Checking a node's own web server at the node's own address, and which steps to suspect if it fails."""

from collections.abc import Sequence

from labctl.observe.observer import Observer
from labctl.observe.wire import Answer

_ANSWERS = ("httpd/page", "nginx/page", "nginx-vhosts/vhosts")
"""The steps that determine the answer."""


def ask(node: str, port: int, observer: Observer, count: int = 1, host: str | None = None) -> list[Answer]:
    """Make requests to a node at an address of its own, as Observer.sample does."""
    asker = observer.neighbour(node)
    return observer.sample(observer.own_address(asker, node), port, count, host=host, start=asker)


def must_be_well(node: str, port: int, observer: Observer, host: str | None = None, message: str = "") -> None:
    """Fail if a node's web server does not answer, or answers with another page than its own.

    `message` says what went wrong as a result; without it, the failure's message is about the web server.
    """
    answer = next(iter(ask(node, port, observer, host=host)), Answer(0, ""))
    steps = observer.serving(node, port)
    if not answer.status:
        stopped = [step for step in steps if step.units and not _all_active(node, step.units, observer)]
        silent = [step for step in steps if not step.units and not step.kind.endswith("/page")]
        observer.blame(message or f"'{node}' does not answer on port {port} of its own address.",
                       *((node, step.kind) for step in stopped or silent or steps))
    pages = [step for step in steps if step.kind in _ANSWERS]
    if answer.status != 200 or (pages and answer.server != node):
        observer.blame(message or f"'{node}' answers with {answer}, not with its own page.",
                       *((node, step.kind) for step in pages or steps))


def _all_active(node: str, units: Sequence[str], observer: Observer) -> bool:
    return observer.says(node, f"systemctl is-active {' '.join(units)}").split() == ["active"] * len(units)


def units_of(server: str, port: int, observer: Observer) -> str:
    """The units that make a node answer HTTP on a port, as arguments for systemctl."""
    return " ".join(unit for step in observer.serving(server, port) for unit in step.units)


def port_of(server: str, observer: Observer) -> int:
    """The first port on which a node serves HTTP."""
    return next(port for service in observer.plan.topology.services.values()
                for port in sorted(service.ports_on(server)))
