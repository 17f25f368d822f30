"""Faults are made in a lab, and heal: one at a time, in any order, or by themselves."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from labctl.base.each import of_each
from labctl.base.errors import LabError
from labctl.base.process import spawn
from labctl.base.progress import Progress, Silent
from labctl.labs.journal import Fault, Journal, Wanted
from labctl.labs.lab import Lab
from labctl.machines.private_room import PrivateRoom
from labctl.observe.faults import wanted
from labctl.observe.faults.kinds import KINDS, Command, Crash, Impaired, InGuest, again_scripts, run, unplugged

_HURRY_SECONDS = 1.5
"""For a node to take a command when somebody waits for labctl to end."""

Block: TypeAlias = AbstractContextManager[Fault]
"""Something is broken while one is in it."""


class Faults:
    """What is broken on purpose in a lab.

    A fault is written down before it is made, so that whoever comes next can put it back if this labctl never gets to
    it. Whoever makes faults or heals them holds the lab's lock.
    """

    def __init__(self, lab: Lab, by: Literal["user", "check"] = "user") -> None:
        self._lab = lab
        self._by = by
        self._journal = Journal(lab.directory)

    def in_force(self) -> list[Fault]:
        """All that is broken, whoever has done it. Raises LabError."""
        return self._journal.faults()

    def make(self, what: Wanted, seconds: float | None = None) -> Fault:
        """Break something, for so many seconds or until it is healed. Raises LabError, and nothing is broken then."""
        kind, others = KINDS[what.kind], self.in_force()
        for other in others:
            if (other.kind, other.nodes, other.options) == (what.kind, what.nodes, what.options) \
                    and not isinstance(kind, Command | Impaired):  # Which add up.
                raise LabError(f"'{what.what}' is in force already.", hint=f"'labctl heal {other.id}' ends it.")
        kind.look(self._lab, what, others)
        until = datetime.now(UTC) + timedelta(seconds=seconds) if seconds else None
        fault = self._journal.add(what, self._by, until)
        try:
            kind.do(self._lab, fault, [*others, fault])
        except LabError:
            with suppress(LabError):
                kind.heal(self._lab, fault, others, Silent())
            self._journal.remove([fault])
            raise
        if isinstance(kind, Crash):  # A machine that stood still does so no more.
            self._journal.remove([other for other in others if other.kind == "freeze" and other.nodes == fault.nodes])
        if fault.until:
            self._set_timer(fault.until)
        return fault

    def _set_timer(self, until: datetime) -> None:
        host = self._lab.host
        room = host.process.pid if isinstance(host, PrivateRoom) and host.process else 0
        spawn([sys.executable, "-m", "labctl.observe.faults.timer", self._lab.name, str(self._lab.record.id),
               str(until.timestamp()), str(room)], self._lab.directory / "faults.log")

    def heal_due(self) -> None:
        """Put back what should have healed by itself by now. Raises LabError."""
        now = datetime.now(UTC)
        for fault in self.in_force():
            if fault.until and fault.until <= now and not fault.over:
                self.heal(fault)

    def heal(self, fault: Fault, progress: Progress | None = None) -> bool:
        """Put a fault back; False for one whose node cannot be reached, and that heals as soon as it can be.

        Returns once that is done: for a node that was switched off, when it is configured again. Raises LabError.
        """
        progress, kind = progress or Silent(), KINDS[fault.kind]
        left = [other for other in self.in_force() if other.id != fault.id]
        if kind.in_guest and not self._reachable(fault.nodes[0], left):
            self._journal.over(fault)
            return False
        self._heal(fault, progress)
        if isinstance(kind, Crash):
            self.booted(fault.nodes)
        elif fault.kind in ("freeze", "unplug"):
            self._catch_up(fault.nodes[0])
        return True

    def _heal(self, fault: Fault, progress: Progress) -> None:
        left = [other for other in self.in_force() if other.id != fault.id]
        KINDS[fault.kind].heal(self._lab, fault, left, progress)
        self._journal.remove([fault])

    def booted(self, nodes: Sequence[str]) -> None:
        """Make sure that nodes which have just booted have the faults again that they had. Raises LabError."""
        self._journal.remove([fault for fault in self.in_force()
                              if fault.nodes[0] in nodes and KINDS[fault.kind].ends_at_boot])
        for fault in [fault for fault in self.in_force() if fault.over and fault.nodes[0] in nodes]:
            self._heal(fault, Silent())  # Its cables are plugged in until they are pulled again below.
        in_force = self.in_force()
        for fault in sorted(in_force, key=lambda fault: fault.kind == "unplug"):  # Which cuts off the way in.
            if set(fault.nodes) & set(nodes) and not KINDS[fault.kind].survives_boot:
                KINDS[fault.kind].do(self._lab, fault, in_force, again=True)

    def step_changed(self, node: str, step: str) -> None:
        """Take note that somebody has done a step, or taken it back: what they want broken is theirs to say."""
        self._journal.remove([fault for fault in self.in_force() if (fault.kind, fault.nodes, fault.options) ==
                              ("undo", [node], {"step": step})])
        kinds = ("impair",)  # A service that was stopped, and that they start, is meant to run.
        scripts = again_scripts(self._lab, node, [fault for fault in self.in_force() if fault.kind in kinds])
        if scripts:
            run(self._lab, node, "\n".join(scripts), f"The lines of '{node}' could not be made bad again")

    def _catch_up(self, node: str) -> None:
        """Heal what was to be healed while a node could not be reached."""
        for fault in self.in_force():
            if fault.over and fault.nodes[0] == node and self._reachable(node, self.in_force()):
                self.heal(fault)

    def _reachable(self, node: str, in_force: Sequence[Fault]) -> bool:
        planned = self._lab.plan.node(node)
        return self._lab.states()[node] == "running" \
            and self._lab.plan.access(planned).network not in unplugged(node, in_force)

    # ---- For the length of a block --------------------------------------------------------------------------

    @contextmanager
    def during(self, what: Wanted) -> Iterator[Fault]:
        """Break something for the length of the block. Raises LabError."""
        fault = self.make(what)
        try:
            yield fault
        except KeyboardInterrupt:  # Then there is no time to wait for anything.
            raise
        except BaseException:
            self.heal(fault)
            raise
        self.heal(fault)

    def crash(self, node: str) -> Block:
        """Pull the plug of a node, and at the end of the block start it again and wait until it is configured."""
        return self.during(wanted.crash(self._lab.plan, node))

    def freeze(self, node: str) -> Block:
        """Have a machine stand still."""
        return self.during(wanted.freeze(self._lab.plan, node))

    def unplug(self, node: str, network: str | None = None) -> Block:
        """Pull the cable of a node to a network, or all of its cables."""
        return self.during(wanted.unplug(self._lab.plan, node, network))

    def cut(self, one: Sequence[str], other: Sequence[str] = (), *, one_way: bool = False) -> Block:
        """Have nothing pass between two groups of nodes, or between one and all others."""
        return self.during(wanted.cut(self._lab.plan, one, other, one_way=one_way))

    def block(self, node: str, protocol: str, network: str | None = None) -> Block:
        """Have what a node sends and gets by a protocol, or at a port such as `tcp/80`, get lost."""
        return self.during(wanted.block(self._lab.plan, node, protocol, network))

    def stop(self, node: str, service: str) -> Block:
        """Stop a service of the topology on a node, the units of a step, or a unit such as `cron.service`."""
        return self.during(wanted.stop(self._lab.plan, node, service))

    def stop_units(self, node: str, units: str) -> Block:
        """Stop units of a node, whose names have spaces between them."""
        return self.during(wanted.units(self._lab.plan, node, units))

    def kill(self, node: str, program: str) -> Block:
        """Kill all processes of a program, and see at the end of the block that its unit runs."""
        return self.during(wanted.kill(self._lab.plan, node, program))

    def hang(self, node: str, program: str) -> Block:
        """Have all processes of a program stand still."""
        return self.during(wanted.hang(self._lab.plan, node, program))

    def impair(self, node: str, network: str | None = None, *, only: bool = False, **values: str) -> Block:
        """Make a line of a node bad, or all of its lines: `delay="20ms", loss="1%"`."""
        return self.during(wanted.impair(self._lab.plan, node, network, only=only, **values))

    def fill(self, node: str) -> Block:
        """Fill the disk of a node."""
        return self.during(wanted.fill(self._lab.plan, node))

    def skew(self, node: str, seconds: float) -> Block:
        """Put the clock of a node forward by so many seconds, or back."""
        return self.during(wanted.skew(self._lab.plan, node, seconds))

    def duplicate(self, address: str, node: str) -> Block:
        """Have a node take an address that another one has."""
        return self.during(wanted.duplicate(self._lab.plan, address, node))

    def undo(self, node: str, step: str) -> Block:
        """Take a step back, and do it again at the end of the block."""
        return self.during(wanted.undo(self._lab.plan, node, step))

    def command(self, node: str, do: str, heal: str) -> Block:
        """Have a node run a command that breaks something, and at the end of the block one that puts it back."""
        return self.during(wanted.command(self._lab.plan, node, do, heal))

    # ---- What a check that was interrupted has left ----------------------------------------------------------

    def mend(self, say: Callable[[str], None]) -> None:
        """Put back what an earlier test left broken, and wait until the lab serves again."""
        left = self._of_checks()
        if not left:
            return
        booting = " and ".join(f"'{fault.nodes[0]}'" for fault in left if fault.kind == "crash")
        say(f"The last test was interrupted; what it had broken is put back{booting and f', and {booting} boots'}.")
        try:
            self.put_back()
            self._lab.gates(Silent()).wait_for_service()
        except LabError as error:  # Whatever is wrong then, the checks will show.
            say(f"Not all of it could be put back: {error.message.splitlines()[0]}")
        self._journal.remove(left)

    def put_back(self) -> None:
        """Put back what checks have broken, the last of it first. Raises LabError once all of it was tried."""
        problem = None
        for fault in reversed(self._of_checks()):
            try:
                self.heal(fault)
            except LabError as error:
                problem = error
        if problem:
            raise problem

    def hurry(self, say: Callable[[str], None]) -> None:
        """Put back what checks have broken as far as that takes no time; the rest is left to the next test."""
        faults = self._of_checks()

        def of(node: object) -> list[Fault]:
            return [fault for fault in reversed(faults) if fault.nodes[0] == getattr(node, "name", "")
                    and self._hurry(fault, say)]

        nodes = [self._lab.plan.node(name) for name in dict.fromkeys(fault.nodes[0] for fault in faults)]
        self._journal.remove([fault for healed in of_each(nodes, of).values() for fault in healed])

    def _hurry(self, fault: Fault, say: Callable[[str], None]) -> bool:
        kind = KINDS[fault.kind]
        try:
            match kind:
                case Crash():
                    kind.switch_on(self._lab, fault)
                    say(f"'{fault.nodes[0]}' was switched off, and boots again.")
                    return False
                case InGuest():
                    run(self._lab, fault.nodes[0], kind.text(fault, kind.script.heal), "", _HURRY_SECONDS)
                case Command():
                    run(self._lab, fault.nodes[0], fault.options["heal"], "", _HURRY_SECONDS)
                case _:
                    kind.heal(self._lab, fault, [each for each in self.in_force() if each.by == "user"], Silent())
        except LabError:
            say(f"'{fault.nodes[0]}' is not as it was yet; the next 'labctl test' puts it back.")
            return False
        return True

    def _of_checks(self) -> list[Fault]:
        return [fault for fault in self.in_force() if fault.by == "check"]
