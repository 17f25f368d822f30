"""A lab that exists: its record, the state of its nodes, and operations on them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from labctl.base import config, paths
from labctl.base.each import of_each
from labctl.base.errors import LabError, Unreachable
from labctl.base.progress import Progress
from labctl.base.suggest import did_you_mean
from labctl.images import store
from labctl.images.store import Image
from labctl.labs import readiness, record
from labctl.labs.journal import Fault, Journal, drops
from labctl.labs.record import Record, load_plan
from labctl.labs.ssh import Ssh
from labctl.machines import keys, sockets
from labctl.machines.existing_libvirt import ExistingLibvirt
from labctl.machines.host import Ability
from labctl.machines.memory import hold, template, wake
from labctl.machines.memory.hold import Machines
from labctl.machines.private_room import PrivateRoom
from labctl.plan import access
from labctl.plan.domain import Disks, domain_xml
from labctl.plan.plan import Plan, PlannedNode
from labctl.plan.seed import files, iso
from labctl.plan.steps import MARKERS, Step, apply_script, undo_script

if TYPE_CHECKING:
    from labctl.machines.provider import Provider

_ASK_SECONDS = 3
"""For a node to tell its time, and to get ready for a question."""
_STATUS_SECONDS = 5
"""For a node to tell which steps are done; short, since a user is waiting."""


class Lab:
    """A lab that exists."""

    def __init__(self, record: Record, plan: Plan | None = None) -> None:
        self.record = record
        self.name = record.name
        self.directory = record.directory
        self.ssh_config = self.directory / "ssh_config"
        self.ssh = Ssh(self.ssh_config, self._shared_connection)
        self.host = ExistingLibvirt(record.libvirt_uri) if record.libvirt_uri else PrivateRoom(
            record.id, self.directory, record.sockets, record.room if record.is_of_this_boot else None)
        if plan:
            self.plan = plan

    @cached_property
    def plan(self) -> Plan:
        """The lab's plan. Raises LabError if it cannot be read."""
        return load_plan(self.name)

    @cached_property
    def image(self) -> Image:
        """The image that its disks are based on. Raises LabError if it is missing or damaged."""
        return store.find_digest(self.record.image)

    @cached_property
    def provider(self) -> "Provider":
        """This lab's part of libvirt."""
        from labctl.machines.provider import Provider  # noqa: PLC0415 (loading libvirt takes longer than most commands)

        return Provider(self.host, self.record.id)

    @property
    def patience(self) -> float:
        """The factor on deadlines in this lab."""
        return readiness.patience(self.record.accel, len(self.plan.nodes))

    @property
    def machines(self) -> Machines:
        """The lab's machines, for saving and restoring; in a private room only."""
        room = self.host
        assert isinstance(room, PrivateRoom)
        return Machines(self.plan, self.directory, self.provider,
                        lambda node: self._domain_xml(node, room.disks(node, self.image)))

    @property
    def held(self) -> bool:
        """Whether its machines are held still to be saved, or were when labctl was killed."""
        return hold.is_held(self.directory)

    def save(self, **changes: Any) -> None:
        """Write the record, after making `changes` to it."""
        self.record = self.record.model_copy(update=changes)
        self.record.save()

    def must_be_open(self) -> None:
        """Raise LabError if the lab's machines are gone, or on another machine while labctl is offline."""
        if self.record.libvirt_uri:
            config.must_reach(self.record.libvirt_uri)
            sockets.make(self.record.sockets, self.directory)
        if not self.host.is_open():
            raise LabError(f"The lab '{self.name}' is gone; its machine was probably restarted.",
                           hint=f"'labctl down {self.name}' clears what is left, 'labctl up' starts it anew.")

    def write_access(self) -> None:
        """Write the lab's ssh_config and known_hosts for its current keys."""
        pairs = keys.read(self.directory / "keys", self.plan)
        control = self.record.sockets
        sockets.make(control, self.directory)
        hosts_file = self.directory / "known_hosts"
        hosts_file.write_text(access.known_hosts(self.plan, pairs))
        identity = self.directory / "keys" / "login"
        self.ssh_config.write_text(access.ssh_config(self.plan, identity, hosts_file, control, self.host.proxy))

    def _shared_connection(self, node: str) -> Path:
        return access.shared_connection(self.plan, self.plan.node(node), self.record.sockets)

    def states(self) -> dict[str, str]:
        """Each node's state: running, hangs, paused, crashed, off (destroyed), or gone (with its room)."""
        if not self.host.is_open():
            return {node.name: "gone" for node in self.plan.nodes}
        states = self.provider.states()

        def state(node: PlannedNode) -> str:
            said = states.get(node.name, "off")
            return "hangs" if said == "running" and self.provider.hangs(node.name) else said

        return of_each(self.plan.nodes, state)

    def must_not_hang(self, nodes: Sequence[PlannedNode]) -> None:
        """Raise LabError if libvirt or the QEMU of a node does not answer; called before waiting for a guest."""
        states = self.states()
        for node in nodes:
            if states[node.name] == "hangs":
                raise self._hangs(node)

    def _hangs(self, node: PlannedNode) -> LabError:
        return LabError(f"The node '{node.name}' hangs: its QEMU does not answer libvirt.",
                        hint=f"'labctl reset {self.name}' ends it and brings all of the lab back, 'labctl down "
                             f"{self.name}' takes the lab down.")

    def applied(self, states: Mapping[str, str]) -> dict[str, set[str] | None]:
        """The names of each node's steps that are done; None for a node that does not answer."""
        seconds = _STATUS_SECONDS * readiness.crowd(len(self.plan.nodes))

        def ask(node: PlannedNode) -> set[str] | None:
            if states[node.name] != "running":
                return None
            try:
                result = self.ssh.run(node.name, f"ls {MARKERS}", timeout=seconds)
            except Unreachable:
                return None
            return None if result.returncode else set(result.stdout.split())

        return of_each(self.plan.nodes, ask)

    def holders(self, answering: Collection[str]) -> dict[IPv4Address, dict[str, bool | None]]:
        """For each VIP, whether each node that may hold it does; None for a node that does not answer.

        Only nodes in `answering` are asked.
        """
        frontends = {frontend.address: frontend for frontend in self.plan.frontends()}
        seconds = _STATUS_SECONDS * readiness.crowd(len(self.plan.nodes))
        candidates = {name for frontend in frontends.values() for name in frontend.holders}

        def ask(node: PlannedNode) -> set[tuple[str, str]] | None:
            try:
                said = self.ssh.run(node.name, "ip -o -4 address", timeout=seconds).stdout
            except Unreachable:
                return None
            lines = [line.split() for line in said.splitlines()]
            return {(words[1], words[3].partition("/")[0]) for words in lines if len(words) > 3}

        asked = [node for node in self.plan.nodes if node.name in candidates and node.name in answering]
        found = of_each(asked, ask)

        def holds(name: str, address: IPv4Address) -> bool | None:
            has = found.get(name)
            return None if has is None else (self.plan.node(name).interface_to(address).name, str(address)) in has

        return {address: {name: holds(name, address) for name in frontend.holders}
                for address, frontend in frontends.items()}

    def clocks(self) -> dict[str, float]:
        """By how many seconds each node's clock is ahead of ours; 0 for a node that does not answer."""
        def ask(node: PlannedNode) -> float:
            try:
                return self.ssh.clock_ahead(node.name, _ASK_SECONDS * self.patience)
            except LabError:
                return 0.0

        return of_each(self.plan.nodes, ask)

    def await_question(self) -> None:
        """Make nodes, before they are saved, wait for the first question that they will be asked (see `wake`)."""
        def ask(node: PlannedNode) -> None:
            with suppress(LabError):  # Without it, the node will be asked by SSH.
                self.ssh.do(node.name, wake.WAIT, _ASK_SECONDS * self.patience, f"'{node.name}' does not wait")

        of_each(self.plan.nodes, ask)

    def gates(self, progress: Progress, limit: float | None = None) -> readiness.Gates:
        """The readiness gates of this lab."""
        return readiness.Gates(self.plan, self.host, self.provider, self.ssh, self.record.accel, progress, limit)

    def must_run(self, node: PlannedNode, states: Mapping[str, str] | None = None) -> None:
        """Raise LabError if a node does not run; `states` are the lab's, if the caller knows them already."""
        state = (states or self.states())[node.name]
        if state == "running":
            return
        if state == "hangs":
            raise self._hangs(node)
        verb, what = ("reboot --force", "switches it off and on") if state == "paused" else ("start", "starts it")
        raise LabError(f"The node '{node.name}' is {state}.", hint=f"'labctl {verb} {self.name}/{node.name}' {what}.")

    # ---- Operations on nodes -----------------------------------------------------------------------------

    def start(self, node: PlannedNode, booted: template.Template | None = None) -> None:
        """Start a node's machine on its disk, which is made first if there is none.

        With `booted` it starts from that template's memory; if that fails, it raises LabError and leaves nothing.
        """
        seed = iso(files(self.plan, node, keys.read(self.directory / "keys", self.plan)))
        if booted:
            disks = self.host.place(self.provider, node, self.image, seed, booted.disk)
            xml = self._domain_xml(node, disks)
            console = self.directory / "consoles" / f"{node.name}.log"
            try:
                template.start(booted, xml, node.name, self.provider, console, self.patience)
            except BaseException:
                self.provider.destroy(node.name)
                disks.overlay.unlink()
                raise
            return
        disks = self.host.place(self.provider, node, self.image, seed)
        self.provider.create_domain(self._domain_xml(node, disks))

    def _domain_xml(self, node: PlannedNode, disks: Disks) -> str:
        return domain_xml(self.plan, self.record.id, node, disks, self.record.accel, own_bridges=self.host.own_bridges)

    def crash(self, node: PlannedNode) -> None:
        """Destroy a node's machine, like pulling its plug; its disk stays as it is."""
        self.ssh.close(node.name)
        self.provider.destroy(node.name)

    def forget_faults(self, nodes: Sequence[PlannedNode]) -> None:
        """Strike out the faults of nodes that are about to be made anew, and have the room do nothing for them more."""
        journal = Journal(self.directory)
        if len(nodes) == len(self.plan.nodes):
            journal.discard()
        else:
            names = {node.name for node in nodes}
            journal.remove([fault for fault in journal.faults() if names & set(fault.nodes)])
        self.filter(journal.faults())

    def filter(self, in_force: Sequence[Fault]) -> None:
        """Have the room keep nodes from each other as faults say, and not otherwise, if it can."""
        if Ability.filter in self.host.abilities:
            self.host.filter(drops(self.plan, in_force))

    def apply(self, node: PlannedNode, step: Step) -> None:
        """Do a step on a running node."""
        self._script(node, step, apply_script(step), "done")

    def undo(self, node: PlannedNode, step: Step) -> None:
        """Undo a step on a running node."""
        self._script(node, step, undo_script(step), "undone")

    def _script(self, node: PlannedNode, step: Step, script: str, what: str) -> None:
        self.ssh.do(node.name, script, 60 * self.patience, f"The step {node.name}/{step.name} could not be {what}")


# ---- All labs -----------------------------------------------------------------------------------------------


def names() -> list[str]:
    """The names of labs that have a record, even an unreadable one."""
    return sorted(path.parent.name for path in paths.labs().glob("[!.]*/lab.json"))


def open_lab(name: str, *, any_host: bool = False) -> Lab:
    """The lab called `name`. Raises LabError if there is none, or if it is another user's or on another machine.

    With `any_host` it may be on another machine, so that its remains here can be removed.
    """
    try:
        found = record.load(name)
    except FileNotFoundError:
        hint = did_you_mean(name, names()) if names() else f"'labctl up {name}' starts it."
        raise LabError(f"No lab called '{name}' is up.", hint=hint) from None
    found.must_be_here(any_host=any_host)
    return Lab(found)


def labs() -> list[Lab]:
    """The labs that are usable here."""
    found = []
    for name in names():
        with suppress(LabError):
            lab = open_lab(name)
            _ = lab.plan  # Without its plan a lab is not usable.
            found.append(lab)
    return found


# ---- One change at a time -------------------------------------------------------------------------------------


@contextmanager
def locked(name: str, seconds: float = 0) -> Iterator[None]:
    """Hold the lock of the lab called `name` while changing it.

    Raises LabError if another labctl holds it, and goes on to do so for so many seconds.
    """
    record.check_name(name)
    paths.labs().mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths.labs() / f".{name}.lock", timeout=seconds)
    try:
        with lock:
            _sign_of_a_test(name).unlink(missing_ok=True)  # A killed test may have left it.
            try:
                yield
            finally:
                # Unlinked while it is held: a waiting labctl notices that the file was replaced, and tries again.
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        doing = f"A test or drill of the lab '{name}' is running." if _is_tested(name) else \
            f"Another labctl is changing the lab '{name}'."
        raise LabError(doing, hint="Try again when it is done.") from None


_LOOK_SECONDS = 10


@contextmanager
def under_test(name: str) -> Iterator[None]:
    """Hold the lock of the lab called `name` while testing it. Raises LabError if another labctl holds it."""
    # Another labctl may hold the sign's lock for a moment, to see whether there is a test.
    with locked(name), FileLock(_sign_of_a_test(name), timeout=_LOOK_SECONDS):
        try:
            yield
        finally:
            _sign_of_a_test(name).unlink(missing_ok=True)


def _is_tested(name: str) -> bool:
    try:
        with FileLock(_sign_of_a_test(name), timeout=0):
            _sign_of_a_test(name).unlink(missing_ok=True)
    except Timeout:
        return True
    return False


def _sign_of_a_test(name: str) -> Path:
    return paths.labs() / f".{name}.test"
