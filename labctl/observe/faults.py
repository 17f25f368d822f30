"""What checks break on purpose, and that it is put back: by the check itself, or by whoever comes next."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import TypeAdapter

from labctl.base.each import of_each
from labctl.base.errors import LabError
from labctl.base.progress import Silent
from labctl.base.types import Model
from labctl.labs.lab import Lab
from labctl.observe import hosts

_HURRY_SECONDS = 1.5
"""For a node to take a command when somebody waits for labctl to end."""


class Fault(Model):
    """Something that is broken on purpose."""

    node: str
    mend: str
    """The command that puts it back; empty where it is the machine that was switched off."""


_Faults = TypeAdapter(list[Fault])


class Faults:
    """What is broken on purpose in a lab at the moment.

    It is written down before it is broken, so that the next test puts it back if this one never gets to it.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._file = lab.directory / "faults.json"

    @contextmanager
    def command(self, node: str, do: str, mend: str) -> Iterator[None]:
        """Have a node run a command that breaks something, and at the end of the block one that mends it.

        Raises LabError for a command that fails.
        """
        with self._noted(Fault(node=node, mend=mend)):
            hosts.do(self._lab, node, do)
            yield

    @contextmanager
    def stop(self, node: str, units: str) -> Iterator[None]:
        """Stop units of a node for the length of the block."""
        with self.command(node, f"systemctl stop {units}", f"systemctl start {units}"):
            yield

    @contextmanager
    def crash(self, node: str) -> Iterator[None]:
        """Pull the plug of a node, and at the end of the block start it again and wait until it is configured."""
        with self._noted(Fault(node=node, mend="")):
            self._lab.crash(self._lab.plan.node(node))
            yield

    def left(self) -> list[Fault]:
        """What is not put back yet."""
        return _Faults.validate_json(self._file.read_bytes()) if self._file.exists() else []

    def mend(self, say: Callable[[str], None]) -> None:
        """Put back what an earlier test left broken, and wait until the lab serves again."""
        left = self.left()
        if not left:
            return
        booting = " and ".join(f"'{fault.node}'" for fault in left if not fault.mend)
        say(f"The last test was interrupted; what it had broken is put back{booting and f', and {booting} boots'}.")
        try:
            for fault in reversed(left):
                self._mend(fault)
            self._lab.gates(Silent()).wait_for_service()
        except LabError as error:  # Whatever is wrong then, the checks will show.
            say(f"Not all of it could be put back: {error.message.splitlines()[0]}")
        self._write([])

    def hurry(self, say: Callable[[str], None]) -> None:
        """Put back what is broken as far as that takes no time; the rest is left to the next test."""
        faults = self.left()

        def of(node: object) -> list[Fault]:
            return [fault for fault in reversed(faults) if fault.node == getattr(node, "name", "")
                    and not self._hurry(fault, say)]

        nodes = [self._lab.plan.node(name) for name in dict.fromkeys(fault.node for fault in faults)]
        self._write([fault for left in of_each(nodes, of).values() for fault in reversed(left)])

    @contextmanager
    def _noted(self, fault: Fault) -> Iterator[None]:
        self._write([*self.left(), fault])
        try:
            yield
        except KeyboardInterrupt:  # Then there is no time to wait for anything.
            raise
        except BaseException:
            self._end(fault)
            raise
        self._end(fault)

    def _end(self, fault: Fault) -> None:
        self._mend(fault)
        left = self.left()
        left.remove(fault)
        self._write(left)

    def _mend(self, fault: Fault) -> None:
        if fault.mend:
            hosts.do(self._lab, fault.node, fault.mend)
        else:
            self._start(fault.node)
            self._lab.gates(Silent()).wait_for_nodes([self._lab.plan.node(fault.node)])

    def _start(self, node: str) -> None:
        if self._lab.states()[node] != "running":
            self._lab.start(self._lab.plan.node(node))

    def _hurry(self, fault: Fault, say: Callable[[str], None]) -> bool:
        try:
            if not fault.mend:
                self._start(fault.node)
                say(f"'{fault.node}' was switched off, and boots again.")
                return False
            if self._lab.ssh.run(fault.node, fault.mend, _HURRY_SECONDS).returncode == 0:
                return True
        except LabError:
            pass
        say(f"'{fault.node}' is not as it was yet; the next 'labctl test' puts it back.")
        return False

    def _write(self, faults: list[Fault]) -> None:
        new = self._file.with_suffix(".new")
        new.write_bytes(_Faults.dump_json(faults))
        new.rename(self._file)
