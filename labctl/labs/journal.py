"""What is broken on purpose in a lab: written down before it is broken, and until it is put back."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field, ValidationError

from labctl.base.errors import LabError
from labctl.base.files import write_atomically
from labctl.base.types import Model
from labctl.machines.filters import Drop, matches
from labctl.plan.domain import port
from labctl.plan.plan import Plan


class Wanted(Model):
    """A fault that somebody wants."""

    kind: str
    what: str
    """As it is typed, such as `unplug rs1:lan`."""
    nodes: list[str] = Field(min_length=1)
    """The nodes that it is about."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What its kind has to know besides."""


class Fault(Wanted):
    """A fault that was made, or is just being made."""

    id: int
    """No two faults of a lab have the same one, also one after the other."""
    by: Literal["user", "check"]
    """Whose it is: a check puts back by itself what checks broke, and nothing of the user's."""
    since: AwareDatetime
    until: AwareDatetime | None = None
    """When it heals by itself."""
    over: bool = False
    """It is to be healed, and waits until its node can be reached."""


class _Page(Model):
    version: Literal[1] = 1
    next: int = 1
    faults: list[Fault] = Field(default_factory=list)


class Journal:
    """The faults of a lab that are in force. Whoever writes to it holds the lab's lock."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the lab's."""
        self._file = directory / "faults.json"

    def faults(self) -> list[Fault]:
        """All that is in force, in the order in which it was made. Raises LabError if that cannot be read."""
        return self._read().faults

    def add(self, wanted: Wanted, by: Literal["user", "check"], until: datetime | None = None) -> Fault:
        """Write down what is about to be broken."""
        page = self._read()
        fault = Fault(**wanted.model_dump(), id=page.next, by=by, since=datetime.now(UTC).replace(microsecond=0),
                      until=until)
        self._write(page.model_copy(update={"next": page.next + 1, "faults": [*page.faults, fault]}))
        return fault

    def over(self, fault: Fault) -> None:
        """Note that a fault is to be healed as soon as that can be."""
        page = self._read()
        self._write(page.model_copy(update={"faults": [
            each.model_copy(update={"over": True}) if each.id == fault.id else each for each in page.faults]}))

    def remove(self, gone: Collection[Fault]) -> None:
        """Strike out faults that are not in force any more."""
        ids = {fault.id for fault in gone}
        page = self._read()
        if any(fault.id in ids for fault in page.faults):
            self._write(page.model_copy(update={"faults": [fault for fault in page.faults if fault.id not in ids]}))

    def _read(self) -> _Page:
        try:
            return _Page.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return _Page()
        except ValidationError:
            raise LabError(f"What is broken on purpose in the lab '{self._file.parent.name}' cannot be read.",
                           hint=f"'labctl reset {self._file.parent.name}' puts the lab back, whatever it is.") from None

    def _write(self, page: _Page) -> None:
        write_atomically(self._file, page.model_dump_json(indent=1))

    def discard(self) -> None:
        """Strike out all, also what cannot be read."""
        try:
            page = self._read()
        except LabError:
            page = _Page()
        self._write(page.model_copy(update={"faults": []}))


def drops(plan: Plan, in_force: Sequence[Wanted]) -> list[Drop]:
    """What the room has to keep from passing: what any of these faults says."""
    def ports(nodes: Collection[str], network: str) -> list[str]:
        return [port(plan, node, interface) for node in plan.nodes if node.name in nodes
                for interface in node.interfaces if interface.network == network]

    found = []
    for fault in in_force:
        for network in plan.networks:
            match fault:
                case Wanted(kind="cut", options={"one": one, "other": other, "one_way": one_way}):
                    here, there = ports(one, network.name), ports(other, network.name)
                    if here and there:
                        found += [Drop(here, there), *([] if one_way else [Drop(there, here)])]
                case Wanted(kind="block", options={"networks": networks, "protocol": protocol}):
                    here = ports(fault.nodes, network.name)
                    if here and network.name in networks:
                        found += [drop for match in matches(protocol)
                                  for drop in (Drop(here, (), match), Drop((), here, match))]
                case _:
                    pass
    return found
