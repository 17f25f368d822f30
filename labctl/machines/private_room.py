"""A private room: namespaces of a lab's own, with a libvirtd in them."""

import os
import shlex
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import UUID

from typing_extensions import override

from labctl.base import namespace, paths, proc
from labctl.base.errors import LabError
from labctl.base.machine import check_tun
from labctl.base.proc import Process
from labctl.base.wait import Deadline, until
from labctl.images import qcow2
from labctl.images.store import Image
from labctl.machines import sockets
from labctl.machines.host import Ability, Host
from labctl.plan.domain import Disks
from labctl.plan.plan import Plan, PlannedNode

if TYPE_CHECKING:
    from labctl.machines.provider import Provider

_INIT = Path(__file__).with_name("room-init.sh")
_MARK = "labctl-room:"
"""Before the lab's id, in an argument of the room's processes."""
_ROOM = "room"
"""The part of the lab's directory that the room itself writes to; the argument after that with the id."""
_OPEN_SECONDS = 60
_CLOSE_SECONDS = 15
_PEER = struct.Struct("3i")
"""Whose socket it is (unix(7), SO_PEERCRED): process, user and group."""


class PrivateRoom(Host):
    """Network, mount and pid namespaces of the lab's own, with a libvirtd in them; no root needed.

    Process 1 of the room is the room: once it is killed, the kernel removes everything in it.
    """

    title = "a private room"
    abilities = frozenset(Ability)
    own_bridges = True

    def __init__(self, instance: UUID, directory: Path, sockets_directory: Path, process: Process | None) -> None:
        self._mark = f"{_MARK}{instance}"
        self._directory = directory
        self._sockets = sockets_directory
        self._socket = self._sockets / "libvirt-sock"
        self._process = process
        self._log = self._directory / "room.log"
        if namespace.machine_user():
            os.umask(0o022)  # The lab's directory is closed; what is in it, but the keys, its machines have to read.

    @property
    def process(self) -> Process | None:
        """The process that waits for process 1 to end, and shares all namespaces but one with it; None without a room.

        Where it is not known, since labctl was killed before it could be, it is found by the lab's id.
        """
        if self._process is None or not self._process.runs:
            self._process = min(_processes(self._mark), key=lambda process: process.started, default=None)
        return self._process

    @property
    def uri(self) -> str:  # type: ignore[override]
        """A pathname socket is not bound to a network namespace, so it can be used from outside."""
        return f"qemu+unix:///system?socket={quote(str(self._socket))}"

    @property
    def daemon(self) -> str:  # type: ignore[override]
        """Its libvirtd, with the process id that a user can do something with."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            return f"the libvirtd of the lab '{self._directory.name}' (process {_PEER.unpack(peer)[0]})"
        return f"the libvirtd of the lab '{self._directory.name}'"

    @property
    def remedy(self) -> str:  # type: ignore[override]
        """The room goes with all that is in it, whatever hangs there."""
        return f"'labctl down {self._directory.name}' takes the lab down, 'labctl up' makes it anew."

    @property
    def proxy(self) -> str:  # type: ignore[override]
        """Netcat, inside the room."""
        return shlex.join([*self._enter(), "nc"]) + " %h %p"

    @override
    def open(self, plan: Plan, known: Callable[[Process], None]) -> None:
        """Start the room's first process and wait for its libvirtd; the process is `known` before it makes anything."""
        check_tun()
        sockets.make(self._sockets, self._directory)
        self._socket.unlink(missing_ok=True)  # Of a room that was killed, it would look like the new one's.
        bridges = [f"{network.bridge}={f'{network.host}/{network.subnet.prefixlen}' if network.host else ''}"
                   for network in plan.networks]

        def remember(pid: int) -> None:
            self._process = proc.find(pid)
            if self._process:
                known(self._process)

        process = namespace.spawn(
            ["unshare", "-n", "-m", "-p", "-f", "--mount-proc", "--kill-child", "--propagation", "private",
             "sh", _INIT, self._mark, self._directory / _ROOM, paths.cache() / "libvirt", self._sockets,
             str(namespace.machine_user()), str(namespace.kvm_group() or ""),
             *(part for way in _ways(self._directory, self._sockets) for part in way), "--", *bridges],
            self._log, remember)
        until(lambda: self._listens() or process.poll() is not None, Deadline(_OPEN_SECONDS), interval=0.02)
        if process.poll() is not None or not self._listens():
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise LabError(f"The lab's private room could not be opened: {said[-1] if said else 'no reason given'}.",
                           hint="'labctl doctor' says what is missing.")

    @override
    def close(self) -> None:
        """Kill the room's process 1 and what has started it, and so all that runs in it; wait until it is gone."""
        _end(self._mark)

    @override
    def is_open(self) -> bool:
        """Whether its process runs."""
        return self.process is not None

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
                     self.serial(node))

    @override
    def serial(self, node: PlannedNode) -> Path:
        """The socket of a node's second serial port."""
        return sockets.serial(self._sockets, node.interfaces[0].address)

    @override
    def console(self, node: str) -> Path:
        return self._directory / "consoles" / f"{node}.log"

    def _listens(self) -> bool:
        """Whether libvirtd takes connections; its socket is there a moment earlier."""
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self._socket)) == 0

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.process.pid if self.process else 0), "-U", "--preserve-credentials", "-n"]


def end(instance: UUID) -> None:
    """End the room of an instance of a lab. Raises LabError if it does not end."""
    _end(f"{_MARK}{instance}")


def end_in(directory: Path) -> None:
    """End all rooms of the lab in a directory, of whichever instance. Raises LabError for one that does not end."""
    _end(str(directory / _ROOM))


def there_are() -> dict[UUID, Path]:
    """The instances of labs that have a room now, whoever knows of them, with the directory of the lab."""
    found = {}
    for process in proc.ours(lambda words: any(word.startswith(_MARK) for word in words)):
        for mark, room in pairwise(proc.arguments(process.pid)):
            with suppress(ValueError):
                found[UUID(mark.removeprefix(_MARK))] = Path(room).parent
    return found


def _end(word: str) -> None:
    left = proc.end(lambda: _processes(word), _CLOSE_SECONDS)
    if left:
        numbers = " ".join(str(process.pid) for process in left)
        raise LabError(f"The processes {numbers} of a lab's room do not end.", hint=f"'kill -9 {numbers}' ends them.")


def _processes(word: str) -> list[Process]:
    """Those with this word among their arguments: process 1 of a room, and what has started that."""
    return proc.ours(lambda words: word in words and any(each.endswith(f"/{_INIT.name}") for each in words))


def _ways(lab: Path, sockets_directory: Path) -> list[tuple[Path, Path]]:
    """Directories that the machines' user may not enter, each with a path below that it, or libvirt, needs.

    There are none where machines run as root of the room. What is labctl's own is opened to the machines' user instead.
    """
    if namespace.machine_user() == 0:
        return []
    # Any of them may be a link to a directory elsewhere.
    kept = [paths.images().parent, paths.images(), paths.cache(), paths.cache() / "boot", paths.cache() / "libvirt"]
    for directory in kept:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(directory.stat().st_mode | 0o001)
    os.chown(lab, -1, namespace.machine_user())
    lab.chmod(0o710)
    found = set()
    for path in (lab, sockets_directory, *kept):
        for name in (path, path.resolve()):
            found.update([(parent, name) for parent in name.parents if not parent.stat().st_mode & 0o001][-1:])
    return sorted(found)
