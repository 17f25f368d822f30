"""A private room: namespaces of a lab's own, with a libvirtd in them."""

import json
import os
import shlex
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
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
from labctl.base.process import run
from labctl.base.wait import Deadline, until
from labctl.images import qcow2
from labctl.images.store import Image
from labctl.machines import filters, sockets
from labctl.machines.filters import Drop
from labctl.machines.host import Ability, Host
from labctl.plan.domain import Disks
from labctl.plan.plan import Plan, PlannedNode

if TYPE_CHECKING:
    from labctl.machines.provider import Provider

_INIT = Path(__file__).with_name("room-init.sh")
_MARK = "labctl-room:"
"""Followed by the lab's id, this is an argument of the room's processes."""
_ROOM = "room"
"""The subdirectory of the lab's directory that the room itself writes to; it is the next argument after the mark."""
_LOOK_SECONDS = 10
_OPEN_SECONDS = 60
_CLOSE_SECONDS = 15
_FILTER_SECONDS = 10
_PEER = struct.Struct("3i")
"""The process, user and group at the other end of a socket (unix(7), SO_PEERCRED)."""


class PrivateRoom(Host):
    """Network, mount and pid namespaces of the lab's own, with a libvirtd in them; no root needed.

    The room is as alive as its process 1: when that is killed, the kernel removes everything in the room.
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
            os.umask(0o022)  # Machines have to read the files in the lab's directory, which is itself closed to others.

    @property
    def process(self) -> Process | None:
        """The parent of process 1, which shares all namespaces but the pid namespace with it; None without a room.

        If labctl was killed before it could record the process, it is found by the lab's id.
        """
        if self._process is None or not self._process.runs:
            self._process = min(_processes(self._mark), key=lambda process: process.started, default=None)
        return self._process

    @property
    def uri(self) -> str:  # type: ignore[override]
        """libvirt's address: a pathname socket, which is reachable from outside the room's network namespace."""
        return f"qemu+unix:///system?socket={quote(str(self._socket))}"

    @property
    def daemon(self) -> str:  # type: ignore[override]
        """Its libvirtd, with the process id outside the room."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            return f"the libvirtd of the lab '{self._directory.name}' (process {_PEER.unpack(peer)[0]})"
        return f"the libvirtd of the lab '{self._directory.name}'"

    @property
    def remedy(self) -> str:  # type: ignore[override]
        """The commands that remove the room, whatever hangs in it, and make it anew."""
        return f"'labctl down {self._directory.name}' takes the lab down, 'labctl up' makes it anew."

    @property
    def proxy(self) -> str:  # type: ignore[override]
        """Netcat, run inside the room."""
        return shlex.join([*self._enter(), "nc"]) + " %h %p"

    @override
    def open(self, plan: Plan, known: Callable[[Process], None]) -> None:
        """Start the room's first process and wait for its libvirtd; `known` is called before the process does anything.

        Raises LabError if the room does not open.
        """
        check_tun()
        sockets.make(self._sockets, self._directory)
        self._socket.unlink(missing_ok=True)  # A killed room's socket would look like the new room's.
        bridges = [f"{network.bridge}={f'{network.host}/{network.subnet.prefixlen}' if network.host else ''}"
                   for network in plan.networks]

        def remember(pid: int) -> None:
            self._process = proc.find(pid)
            if self._process:
                known(self._process)

        started = namespace.spawn(
            ["unshare", "-n", "-m", "-p", "-f", "--mount-proc", "--kill-child", "--propagation", "private",
             "sh", _INIT, self._mark, self._directory / _ROOM, paths.cache() / "libvirt", self._sockets,
             str(namespace.machine_user()), str(namespace.kvm_group() or ""),
             *(part for way in _ways(self._directory, self._sockets) for part in way), "--", *bridges],
            self._log, remember)
        until(lambda: self._listens() or started.poll() is not None, Deadline(_OPEN_SECONDS), interval=0.02)
        if started.poll() is not None or not self._listens():
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise LabError(f"The lab's private room could not be opened: {said[-1] if said else 'no reason given'}.",
                           hint="'labctl doctor' says what is missing.")

    @override
    def close(self) -> None:
        """Kill the room's process 1 and its parent, and with them everything in the room; wait until they are gone."""
        _end(self._mark)

    @override
    def is_open(self) -> bool:
        return self.process is not None

    @override
    def place(self, provider: "Provider", node: PlannedNode, image: Image, seed: bytes,
              base: Path | None = None) -> Disks:
        """Make the node's overlay and seed in the lab's directory."""
        disks = self.disks(node, image)
        for file in (disks.overlay, disks.seed, self.console(node.name)):
            file.parent.mkdir(exist_ok=True)
        if not disks.overlay.exists():
            # A base is named relative to the overlay, so that both can be kept elsewhere together.
            qcow2.overlay(disks.overlay, base.name if base else image.disk)
            disks.seed.write_bytes(seed)
        return disks

    def disks(self, node: PlannedNode, image: Image) -> Disks:
        """The paths of a node's files after they have been placed."""
        return Disks(self._directory / "disks" / f"{node.name}.qcow2", self._directory / "seeds" / f"{node.name}.iso",
                     image.kernel, image.initrd, image.media, self.console(node.name),
                     self.serial(node))

    @override
    def filter(self, drops: Sequence[Drop]) -> None:
        """By nftables, in the room's network namespace."""
        run(self.inside(["nft", "-f", "-"]), stdin=filters.ruleset(drops), timeout=_FILTER_SECONDS)

    @override
    def inside(self, argv: Sequence[str | Path]) -> list[str | Path]:
        """A program of this machine, with the room's network alone."""
        return [*self._enter(), *argv]

    @override
    def taps(self) -> dict[str, str]:
        """By their MAC addresses. Raises LabError if the room does not say."""
        links = json.loads(run(self.inside(["ip", "-j", "link", "show"]), timeout=_LOOK_SECONDS).stdout)
        return {link["address"]: link["ifname"] for link in links if "address" in link and "master" in link}

    @override
    def pin(self, bridge: str, address: IPv4Address, mac: str | None) -> None:
        """By a permanent neighbour, in the room's network namespace."""
        words = ["replace", str(address), "dev", bridge, *(["lladdr", mac, "nud", "permanent"] if mac else [])]
        if mac is None:
            words[0] = "del"
        run(self.inside(["ip", "neighbour", *words]), check=mac is not None, timeout=_FILTER_SECONDS)

    @override
    def serial(self, node: PlannedNode) -> Path:
        return sockets.serial(self._sockets, node.interfaces[0].address)

    @override
    def console(self, node: str) -> Path:
        return self._directory / "consoles" / f"{node}.log"

    def _listens(self) -> bool:
        """Whether libvirtd accepts connections; its socket exists a moment earlier."""
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self._socket)) == 0

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.process.pid if self.process else 0), "-U", "--preserve-credentials", "-n"]


def end(instance: UUID) -> None:
    """End the room of a lab's instance. Raises LabError if it does not end."""
    _end(f"{_MARK}{instance}")


def end_in(directory: Path) -> None:
    """End the rooms of all instances of the lab in a directory. Raises LabError if one does not end."""
    _end(str(directory / _ROOM))


def there_are() -> dict[UUID, Path]:
    """All instances of labs that have a room now, also without a record, with the lab's directory."""
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
    """The processes of a room, process 1 and its parent, by a word among their arguments."""
    return proc.ours(lambda words: word in words and any(each.endswith(f"/{_INIT.name}") for each in words))


def _ways(lab: Path, sockets_directory: Path) -> list[tuple[Path, Path]]:
    """Pairs of a directory that the machines' user may not enter, and a path below it that this user needs.

    There are none if machines run as root of the room. labctl's own directories are opened to the machines' user here.
    """
    if namespace.machine_user() == 0:
        return []
    # Any of these may be a symbolic link.
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
