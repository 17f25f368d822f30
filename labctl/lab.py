"""A lab's life: up, down, status, and what is done to its nodes in between."""

import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from pydantic import ValidationError

from labctl import accel, access, paths, readiness, room, store
from labctl.domain import Accel, domain_xml, network_xml
from labctl.errors import LabError
from labctl.machine import available_memory, free_disk
from labctl.plan import Plan, PlannedNode
from labctl.process import run
from labctl.progress import Progress
from labctl.seed import KeyPair, Keys, files, iso
from labctl.site import Model
from labctl.ssh import Ssh
from labctl.steps import Step, apply_script, undo_script
from labctl.store import Image
from labctl.suggest import did_you_mean

if TYPE_CHECKING:
    from labctl.provider import Provider

_OVERHEAD_MIB = {"kvm": 100, "tcg": 220}
"""What QEMU needs beside the guest's memory; under TCG also for translated code."""
_DISK_MIB = 400
"""What one node writes to its overlay in an ordinary lab."""


class Record(Model):
    """What labctl has to remember of a lab between two commands."""

    plan: Plan
    host: str | None
    accel: Accel
    image: str
    """The digest of the image its disks are based on."""
    ready: bool = False
    """False while it is on its way up, and for ever if labctl was killed then."""


class Lab:
    """A lab that exists."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.plan = record.plan
        self.directory = paths.lab(record.plan.lab)
        self.ssh_config = self.directory / "ssh_config"
        self.ssh = Ssh(self.ssh_config)
        self.room = room.for_lab(record.plan.lab, record.host)

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.plan.lab

    @cached_property
    def provider(self) -> "Provider":
        """libvirt, as far as it is this lab's."""
        from labctl.provider import Provider  # noqa: PLC0415 (loading libvirt takes longer than most commands)

        return Provider(self.room.uri, str(self.plan.uuid))

    @property
    def patience(self) -> float:
        """The factor on deadlines in this lab."""
        return readiness.patience(self.record.accel, len(self.plan.nodes))

    def save(self, record: Record) -> None:
        """Remember a new state of the lab."""
        self.record = record
        text = record.model_dump_json(exclude={"plan": {"digest"}})
        new = self.directory / "lab.json.new"
        new.write_text(text)
        new.rename(self.directory / "lab.json")

    def states(self) -> dict[str, str]:
        """Each node's state: running, paused, crashed, off (destroyed), or gone with its room."""
        if not self.room.is_open():
            return {node.name: "gone" for node in self.plan.nodes}
        states = self.provider.states()
        return {node.name: states.get(node.name, "off") for node in self.plan.nodes}

    def gates(self, progress: Progress, limit: float | None = None) -> readiness.Gates:
        """The readiness gates of this lab."""
        return readiness.Gates(self.plan, self.room, self.provider, self.ssh, self.record.accel, progress, limit)

    # ---- What is done to nodes ---------------------------------------------------------------------------

    def start(self, node: PlannedNode, image: Image | None = None) -> None:
        """Start a node's machine on its disk, which is made if it has none yet."""
        image = image or store.find(self.plan.guest.name)
        seed = iso(files(self.plan, node, _read_keys(self.directory / "keys", self.plan)))
        disks = self.room.place(self.provider, node, image, seed)
        self.provider.create_domain(domain_xml(self.plan, node, disks, self.record.accel))

    def crash(self, node: PlannedNode) -> None:
        """Pull the plug of a node; its disk stays as it is."""
        self.ssh.close(node.name)
        self.provider.destroy(node.name)

    def apply(self, node: PlannedNode, step: Step) -> None:
        """Do a step on a running node, as its first boot did."""
        self._script(node, step, apply_script(step), "done")

    def undo(self, node: PlannedNode, step: Step) -> None:
        """Take a step back on a running node."""
        self._script(node, step, undo_script(step), "undone")

    def _script(self, node: PlannedNode, step: Step, script: str, what: str) -> None:
        result = self.ssh.run(node.name, script, timeout=60 * self.patience)
        if result.returncode:
            said = (result.stderr or result.stdout).strip().splitlines()
            raise LabError(f"The step {node.name}/{step.name} could not be {what}: {said[-1] if said else 'no output'}")


def accelerator(wanted: str, plan: Plan, host: str | None) -> tuple[Accel, str]:
    """What will run the guests, and a line for the user; see accel.choose. Of another machine libvirt is asked."""
    if wanted == "auto" and host and urlsplit(host).netloc:
        from labctl.provider import Provider  # noqa: PLC0415 (loading libvirt takes longer than most commands)

        return ("kvm", "") if Provider(host, str(plan.uuid)).has_kvm() else ("tcg", f"There is no KVM at '{host}'.")
    return accel.choose(wanted)


# ---- Up and down ------------------------------------------------------------------------------------------


def up(plan: Plan, chosen: Accel, host: str | None, progress: Progress, *, limit: float | None = None,
       keep: bool = False) -> Lab:
    """Bring a lab up and return when it serves; one that is up already is left as it is.

    `limit` (seconds) replaces every readiness gate's deadline; with `keep` a lab that failed stays for a look.
    Raises LabError; whatever was made by then is gone again.
    """
    with _locked(plan.lab):
        existing = _existing(plan, progress)
        if existing:
            return existing
        image = store.find(plan.guest.name)
        _check_resources(plan, chosen, host)
        lab = Lab(Record(plan=plan, host=host, accel=chosen, image=image.manifest.digest))
        if host:
            lab.provider.states()  # Nothing is made here for a libvirt that is not there.
        try:
            _make_directory(lab)
            lab.room.open(plan)
            _write_access(lab)
            for network in plan.networks:
                lab.provider.create_network(network_xml(plan, network, lab.room.own_bridges))
            _start_nodes(lab, image, progress)
            gates = lab.gates(progress, limit)
            gates.wait_for_nodes(plan.nodes)
            gates.wait_for_service()
            lab.save(lab.record.model_copy(update={"ready": True}))
        except BaseException as error:
            if not (keep and isinstance(error, LabError)):
                with _uninterrupted():
                    _remove(lab)
            raise
        return lab


def down(name: str) -> None:
    """Remove a lab and all that belongs to it. Raises LabError if there is none, or for what could not be removed."""
    with _locked(name):
        lab = open_lab(name)
        with _uninterrupted():
            _remove(lab)


def names() -> list[str]:
    """The labs that exist."""
    return sorted(path.parent.name for path in paths.labs().glob("*/lab.json"))


def open_lab(name: str) -> Lab:
    """The lab called `name`. Raises LabError if there is none."""
    try:
        return Lab(Record.model_validate_json((paths.lab(name) / "lab.json").read_bytes()))
    except FileNotFoundError:
        hint = did_you_mean(name, names()) if names() else f"'labctl up {name}' starts it."
        raise LabError(f"No lab called '{name}' is up.", hint=hint) from None
    except ValidationError:
        raise LabError(f"The lab '{name}' was made by another version of labctl.",
                       hint=f"Use that version to take it down, or remove '{paths.lab(name)}'.") from None


def images_in_use() -> dict[str, list[str]]:
    """Image digest to the labs that run on it."""
    result: dict[str, list[str]] = {}
    for name in names():
        result.setdefault(open_lab(name).record.image, []).append(name)
    return result


def _existing(plan: Plan, progress: Progress) -> Lab | None:
    if plan.lab not in names():
        return None
    lab = open_lab(plan.lab)
    if lab.record.ready and lab.room.is_open():
        if lab.plan.digest == plan.digest:
            progress.say(f"The lab '{plan.lab}' is up already.")
            return lab
        raise LabError(f"A lab called '{plan.lab}' is up, made from another topology or guest.",
                       hint=f"'labctl down {plan.lab}' removes it; '--name NAME' starts a second one beside it.")
    progress.say(f"The lab '{plan.lab}' did not come up, or its machine was restarted; making it anew.")
    _remove(lab)
    return None


def _make_directory(lab: Lab) -> None:
    lab.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    lab.save(lab.record)
    _make_keys(lab.directory / "keys", lab.plan)


def _write_access(lab: Lab) -> None:
    keys = _read_keys(lab.directory / "keys", lab.plan)
    sockets = paths.sockets(lab.name)
    room.make_sockets_directory(sockets)
    hosts_file = lab.directory / "known_hosts"
    hosts_file.write_text(access.known_hosts(lab.plan, keys))
    identity = lab.directory / "keys" / "login"
    lab.ssh_config.write_text(access.ssh_config(lab.plan, identity, hosts_file, sockets, lab.room.proxy))


def _start_nodes(lab: Lab, image: Image, progress: Progress) -> None:
    def start(node: PlannedNode) -> None:
        lab.start(node, image)
        progress.passed(node.name, "defined")

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(start, lab.plan.nodes))


def _remove(lab: Lab) -> None:
    """Take everything down, whatever is there of it; go on past failures and report them together."""
    failures: list[str] = []
    try:
        if lab.record.host:
            failures += lab.provider.remove_all()
        for node in lab.plan.nodes:
            if lab.ssh_config.exists():
                lab.ssh.close(node.name)
        lab.room.close()
    except LabError as error:
        failures.append(error.message)
    if not failures:
        shutil.rmtree(paths.sockets(lab.name), ignore_errors=True)
        shutil.rmtree(lab.directory, ignore_errors=True)
    if failures:
        raise LabError(f"Not all of the lab '{lab.name}' could be removed: {'; '.join(failures)}",
                       hint=f"'labctl down {lab.name}' tries again.")


# ---- Before anything is started -----------------------------------------------------------------------------


def _check_resources(plan: Plan, chosen: Accel, host: str | None) -> None:
    free, directory = free_disk(paths.labs())
    needed = _DISK_MIB * len(plan.nodes)
    if free < needed:
        raise LabError(f"The lab '{plan.lab}' needs {needed} MiB of disk in '{directory}', and {free} MiB are free.",
                       hint="'labctl image list' and 'labctl list' show what takes space.")
    if host:
        return
    memory = sum(node.memory + _OVERHEAD_MIB[chosen] for node in plan.nodes)
    available = available_memory()
    if available < memory:
        raise LabError(f"The lab '{plan.lab}' needs {memory} MiB of memory, and {available} MiB are available.",
                       hint="'labctl list' shows what is up; 'memory:' in the topology gives a node less.")


# ---- Keys ---------------------------------------------------------------------------------------------------


def _make_keys(directory: Path, plan: Plan) -> None:
    directory.mkdir(mode=0o700)
    for name in ["login", *(f"host.{node.name}" for node in plan.nodes)]:
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"labctl {plan.lab}", "-f", directory / name])


def _read_keys(directory: Path, plan: Plan) -> Keys:
    def pair(name: str) -> KeyPair:
        return KeyPair((directory / name).read_text(), (directory / f"{name}.pub").read_text())

    return Keys(pair("login"), {node.name: pair(f"host.{node.name}") for node in plan.nodes})


# ---- One change at a time -------------------------------------------------------------------------------------


@contextmanager
def _locked(name: str) -> Iterator[None]:
    paths.labs().mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths.labs() / f".{name}.lock", timeout=0)
    try:
        with lock:
            try:
                yield
            finally:
                # While it is held: whoever waits for it notices that the file is another one, and tries again.
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        raise LabError(f"Another labctl is changing the lab '{name}'.", hint="Try again when it is done.") from None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let clean-up finish, however often Ctrl-C is pressed."""
    def ignore(_signal: int, _frame: FrameType | None) -> None:
        return

    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, ignore) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
