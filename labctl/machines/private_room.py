"""A private room: namespaces of a lab's own, with a libvirtd in them."""

import os
import shlex
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from labctl.base import namespace, paths
from labctl.base.errors import LabError
from labctl.base.machine import check_tun
from labctl.base.wait import Deadline, until
from labctl.images import qcow2
from labctl.images.store import Image
from labctl.machines.host import Ability, Host
from labctl.plan.domain import Disks
from labctl.plan.plan import Plan, PlannedNode

if TYPE_CHECKING:
    from labctl.machines.provider import Provider

_INIT = Path(__file__).with_name("room-init.sh")
_OPEN_SECONDS = 60
_CLOSE_SECONDS = 15
_SOCKET_PATH_MAX = 107
_LONGEST_SOCKET = "255.255.255.255.0123456789abcdef"
"""The name under which ssh makes the socket of a shared connection, before it renames it."""


class PrivateRoom(Host):
    """Network, mount and pid namespaces of the lab's own, with a libvirtd in them; no root needed.

    Process 1 of the room is the room: once it is killed, the kernel removes everything in it.
    """

    title = "a private room"
    abilities = frozenset(Ability)
    own_bridges = True

    def __init__(self, lab: str) -> None:
        self._directory = paths.lab(lab)
        self._sockets = paths.sockets(lab)
        self._socket = self._sockets / "libvirt-sock"
        self._pid_file = self._directory / "room.pid"
        self._log = self._directory / "room.log"
        if namespace.machine_user():
            os.umask(0o022)  # The lab's directory is closed; what is in it, but the keys, its machines have to read.

    @property
    def uri(self) -> str:  # type: ignore[override]
        """A pathname socket is not bound to a network namespace, so it can be used from outside."""
        return f"qemu+unix:///system?socket={self._socket}"

    @property
    def proxy(self) -> str:  # type: ignore[override]
        """Netcat, inside the room."""
        return shlex.join([*self._enter(), "nc"]) + " %h %p"

    @override
    def open(self, plan: Plan) -> None:
        """Start the room's first process and wait for its libvirtd."""
        check_tun()
        make_sockets_directory(self._sockets)
        self._socket.unlink(missing_ok=True)  # Of a room that was killed, it would look like the new one's.
        bridges = [f"{network.bridge}={f'{network.host}/{network.subnet.prefixlen}' if network.host else ''}"
                   for network in plan.networks]
        process = namespace.spawn(
            ["unshare", "-n", "-m", "-p", "-f", "--mount-proc", "--kill-child", "--propagation", "private",
             "sh", _INIT, self._directory / "room", paths.cache() / "libvirt", self._sockets,
             str(namespace.machine_user()), str(namespace.kvm_group() or ""),
             *(part for way in _ways(self._directory, self._sockets) for part in way), "--", *bridges],
            self._log, lambda pid: _remember(pid, self._pid_file))
        until(lambda: self._socket.exists() or process.poll() is not None, Deadline(_OPEN_SECONDS), interval=0.02)
        if process.poll() is not None or not self._socket.exists():
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise LabError(f"The lab's private room could not be opened: {said[-1] if said else 'no reason given'}.",
                           hint="'labctl doctor' says what is missing.")

    @override
    def close(self) -> None:
        """Kill the room's process 1, and with it all that runs in the room; wait until it is gone."""
        pid = self._starter()
        if pid:
            # It ends when process 1 has, which ends after all others. Without one it does not have a room yet.
            os.kill(next(iter(_children(pid)), pid), signal.SIGKILL)
            deadline = Deadline(_CLOSE_SECONDS)
            while self._starter() and not deadline.expired:
                _reap_children()
                time.sleep(0.01)
            if self._starter():
                raise LabError(f"The process {pid} of the lab's room does not end.", hint=f"'kill -9 {pid}' ends it.")
        _reap_children()
        shutil.rmtree(self._sockets, ignore_errors=True)

    @override
    def is_open(self) -> bool:
        """Whether what started it still runs; its start time tells it from a later process of the same number."""
        return self._starter() is not None

    @override
    def place(self, provider: "Provider", node: PlannedNode, image: Image, seed: bytes,
              base: Path | None = None) -> Disks:
        """An overlay and the seed, in the lab's directory."""
        disks = self.disks(node, image)
        for file in (disks.overlay, disks.seed, self.console(node.name)):
            file.parent.mkdir(exist_ok=True)
        if not disks.overlay.exists():
            # By a name beside it, so that it is found wherever the two are kept.
            qcow2.overlay(disks.overlay, base.name if base else image.disk)
            disks.seed.write_bytes(seed)
        return disks

    def disks(self, node: PlannedNode, image: Image) -> Disks:
        """Where a node's files are once they have been placed."""
        return Disks(self._directory / "disks" / f"{node.name}.qcow2", self._directory / "seeds" / f"{node.name}.iso",
                     image.kernel, image.initrd, image.media, self.console(node.name),
                     paths.serial(self._directory.name, node.interfaces[0].address))

    @override
    def console(self, node: str) -> Path:
        return self._directory / "consoles" / f"{node}.log"

    def _starter(self) -> int | None:
        """The process that waits for process 1 to end, and shares all namespaces but one with it."""
        try:
            pid, start = map(int, self._pid_file.read_text().split())
            return pid if _start_time(pid) == start else None
        except (OSError, ValueError):
            return None

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self._starter()), "-U", "--preserve-credentials", "-n"]


def make_sockets_directory(directory: Path) -> None:
    """Make a lab's directory for sockets. Raises LabError if its path is too long, or if it is somebody else's."""
    if len(str(directory / _LONGEST_SOCKET)) > _SOCKET_PATH_MAX:
        raise LabError(f"The path '{directory}' is too long for sockets.",
                       hint="Use a shorter lab name (--name) or a shorter XDG_RUNTIME_DIR.")
    for each in (directory.parent.parent, directory.parent, directory):
        _own_directory(each)


def _own_directory(directory: Path) -> None:
    """Make a directory that nobody else can enter. Raises LabError if it is somebody else's."""
    directory.mkdir(exist_ok=True, mode=0o700)
    status = directory.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise LabError(f"The directory '{directory}' is not yours alone.",
                       hint=f"'chmod 700 {directory}' as its owner.")


def _start_time(pid: int) -> int:
    """Clock ticks from boot to the process's start (proc(5): field 22 of stat); raises OSError if it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return int(fields[19])


def _remember(pid: int, file: Path) -> None:
    file.write_text(f"{pid} {_start_time(pid)}")


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


def _ways(lab: Path, sockets: Path) -> list[tuple[Path, Path]]:
    """Directories that the machines' user may not enter, each with a path below that it, or libvirt, needs.

    There are none where machines run as root of the room. What is labctl's own is opened to the machines' user instead.
    """
    if namespace.machine_user() == 0:
        return []
    data, cache, booted = paths.images().parent, paths.cache(), paths.cache() / "boot"
    for directory in (data, paths.images(), cache, booted):
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(directory.stat().st_mode | 0o001)
    os.chown(lab, -1, namespace.machine_user())
    lab.chmod(0o710)
    found = set()
    for path in (lab, sockets, data, cache, paths.images()):
        for name in (path, path.resolve()):
            found.update([(parent, name) for parent in name.parents if not parent.stat().st_mode & 0o001][-1:])
    return sorted(found)


def _reap_children() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
