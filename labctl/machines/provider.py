"""libvirt: the only module that imports it. Changes only the objects of one lab."""

import io
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar
from uuid import UUID
from xml.etree import ElementTree as ET

import libvirt

from labctl.base import config
from labctl.base.errors import LabError
from labctl.base.wait import Deadline, until, within
from labctl.plan.domain import NAMESPACE

_POOL = "labctl"
_POOL_PATH = "/var/lib/libvirt/images/labctl"
_SETTLE_SECONDS = 60
"""For libvirt to finish what a killed labctl had begun, such as writing a machine's memory."""
_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "shutting down",
    libvirt.VIR_DOMAIN_SHUTOFF: "off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
}


_QUESTION_SECONDS = 10
"""For what libvirtd knows by itself."""
_CHANGE_SECONDS = 60
"""For a machine or a network to start, to stop, or to take a device."""
_HOLD_SECONDS = 20
"""For a machine to stand still, or to go on."""
_MEMORY_SECONDS = 300
"""For a machine's memory to be written or read."""
_ALIVE_SECONDS = 10
"""For a QEMU or a libvirtd that is well, however busy."""
_STALL_SECONDS = 60
"""For the next part of an upload to be accepted."""
_COPY_SECONDS = 600
"""For libvirt to copy what was uploaded."""
_GRACE_SECONDS = 5
"""For a call to end after its caller is interrupted, so that what it makes can be cleaned up."""
_PART = 2**20
_BASE = re.compile(r"[0-9a-f]{16}\.(qcow2|vmlinuz|initrd|media)")
"""The names of volumes uploaded from an image, which labs share."""
_DAY = 86_400
Value = TypeVar("Value")


class Place(Protocol):
    """The part of a `Host` that leads to its libvirt."""

    @property
    def uri(self) -> str:
        """libvirt's URI."""

    @property
    def daemon(self) -> str:
        """libvirt's name in a sentence."""

    @property
    def remedy(self) -> str:
        """A hint for the user if libvirt does not answer any more."""


class Provider:
    """The domains, networks and volumes of one instance of a lab, at one libvirt.

    All methods raise LabError, also if libvirt or a machine does not answer in time. libvirt's own calls would wait for
    ever, and Python handles no signals during them, so each call is made in a thread that can be abandoned.
    """

    def __init__(self, place: Place, instance: UUID) -> None:
        config.must_reach(place.uri)
        self.instance = instance
        self._place = place
        self._storage = threading.Lock()  # Nodes start in threads; a pool takes one change at a time.
        # Without a handler of ours libvirt would also print the errors that it raises.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        failure = f"libvirt at '{place.uri}' cannot be reached"
        self._connection: Any = self._do(failure, _QUESTION_SECONDS, partial(libvirt.open, place.uri))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def instances(self) -> dict[UUID, str]:
        """The ids and names of all users' labs that have machines or networks there."""
        found = {}
        for lab in self._do("libvirt does not say what there is", _QUESTION_SECONDS, lambda: [
                _metadata(each) for each in (*self._connection.listAllDomains(), *self._connection.listAllNetworks())]):
            if lab is not None:
                with suppress(ValueError):
                    found[UUID(lab.get("uuid"))] = lab.get("name", "")
        return found

    def must_be_free(self, name: str) -> None:
        """Raise LabError if another lab there has this name: another user's, or one without a record."""
        for instance, other in self.instances().items():
            if other == name and instance != self.instance:
                uri = self._place.uri
                raise LabError(f"The libvirt at '{uri}' has a lab called '{name}' already. No record here knows of it, "
                               "so it may be somebody else's.",
                               hint="'--name NAME' starts one under another name. If it was yours, "
                                    f"'labctl down --force {instance} --host {uri}' removes it.")

    def has_kvm(self) -> bool:
        """Whether libvirt offers KVM."""
        def ask() -> bool:
            try:
                self._connection.getDomainCapabilities(None, "x86_64", None, "kvm")
            except libvirt.libvirtError:
                return False
            return True

        return self._do("libvirt does not say what it offers", _QUESTION_SECONDS, ask)

    # ---- Networks and domains ------------------------------------------------------------------------

    def create_network(self, xml: str) -> None:
        """Start a transient network. Raises LabError, also if one of that name exists."""
        self._do("The network could not be made", _CHANGE_SECONDS, lambda: self._connection.networkCreateXML(xml))

    def create_domain(self, xml: str) -> None:
        """Start a transient domain. Raises LabError, also if one of that name exists."""
        self._do("The machine could not be started", _CHANGE_SECONDS, lambda: self._connection.createXML(xml))

    def save(self, node: str, path: Path) -> None:
        """Write a node's memory to a file; this ends its domain."""
        self._do(f"The machine '{node}' could not be saved", _MEMORY_SECONDS,
                 lambda: self._domain(node).saveFlags(str(path), None, libvirt.VIR_DOMAIN_SAVE_PAUSED), node)

    def restore(self, path: Path, *, paused: bool = False) -> None:
        """Start a transient domain as it was saved, running or `paused`."""
        state = libvirt.VIR_DOMAIN_SAVE_PAUSED if paused else libvirt.VIR_DOMAIN_SAVE_RUNNING
        self._do("The machine could not be restored", _MEMORY_SECONDS,
                 lambda: self._connection.restoreFlags(str(path), None, state))

    def settle(self) -> None:
        """Wait until libvirt has finished what a killed labctl had begun. Raises LabError."""
        def idle() -> bool:
            for _, domain in self._domains():
                with _may_end():
                    if domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
                        return False
            return True

        if not until(lambda: self._do("libvirt does not say what it is doing", _QUESTION_SECONDS, idle),
                     Deadline(_SETTLE_SECONDS), interval=0.1):
            raise LabError("libvirt does not finish its work on a machine.", hint="'labctl down' ends all of the lab.")

    def suspend(self, node: str | None = None) -> None:
        """Suspend all nodes, in as short a time as possible, or one of them."""
        self._all("The machines could not be held still", lambda domain: domain.suspend(), node)

    def resume(self, node: str | None = None) -> None:
        """Resume all suspended nodes, in as short a time as possible, or one of them if it exists."""
        def resume(domain: Any) -> None:
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()

        self._all("The machines could not go on", resume, node)

    def set_link(self, node: str, mac: str, *, up: bool) -> None:
        """Plug the cable of one of a node's interfaces in, or pull it; the guest sees its carrier come or go."""
        def update() -> None:
            domain = self._domain(node)
            interface = next(each for each in ET.fromstring(domain.XMLDesc()).iterfind("devices/interface")
                             if each.find(f"mac[@address='{mac}']") is not None)
            for link in interface.findall("link"):
                interface.remove(link)
            ET.SubElement(interface, "link", state="up" if up else "down")
            domain.updateDeviceFlags(ET.tostring(interface, encoding="unicode"), libvirt.VIR_DOMAIN_AFFECT_LIVE)

        done = "plugged in" if up else "pulled"
        self._do(f"The cable of '{node}' could not be {done}", _CHANGE_SECONDS, update, node)

    def attach(self, node: str, xml: str) -> None:
        """Plug a device into a running node."""
        self._do(f"A device could not be plugged into '{node}'", _CHANGE_SECONDS,
                 lambda: self._domain(node).attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE), node)

    def versions(self) -> str:
        """The versions of libvirt and of its emulator."""
        return self._do("libvirt does not say which it is", _QUESTION_SECONDS,
                        lambda: f"{self._connection.getLibVersion()} {self._connection.getVersion()}")

    def states(self) -> dict[str, str]:
        """The states of the lab's nodes that have a domain; a destroyed node has none."""
        def ask() -> dict[str, str]:
            found = {}
            for node, domain in self._domains():
                with _may_end():
                    found[node] = _STATES.get(domain.state()[0], "unknown")
            return found

        return self._do("libvirt does not say which machines run", _QUESTION_SECONDS, ask)

    def hangs(self, node: str, seconds: float = _ALIVE_SECONDS) -> bool:
        """Whether a node's QEMU has not answered for `seconds`; libvirt still reports such a node as running."""
        try:
            if self._busy(node) < seconds:  # Otherwise an earlier question is still without an answer.
                within(seconds, lambda: self._domain(node).blockStats(""))
                return False
        except TimeoutError:
            return self._busy(node) > 0  # If it is not busy, libvirtd has not asked it yet.
        except (LabError, libvirt.libvirtError):
            return False  # It is gone, or has answered with an error.
        return True

    def _busy(self, node: str) -> float:
        """For how many seconds a node's QEMU has been busy with a question of libvirt's."""
        try:
            state, _, milliseconds = within(_ALIVE_SECONDS, lambda: self._domain(node).controlInfo())
        except (TimeoutError, LabError, libvirt.libvirtError):
            return 0
        return milliseconds / 1000 if state == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED else 0

    def destroy(self, node: str) -> None:
        """Destroy a node's domain, like pulling its plug. Does nothing if it has none."""
        def pull_plug() -> None:
            for name, domain in self._domains():
                if name == node:
                    _pull_plug(domain)

        self._do(f"The machine '{node}' could not be stopped", _CHANGE_SECONDS, pull_plug, node)

    def remove_all(self) -> list[str]:
        """Remove everything that belongs to the lab; goes on past failures and returns them."""
        def find() -> list[tuple[str, Callable[[], object]]]:
            return [*((f"the machine '{node}'", partial(_pull_plug, domain)) for node, domain in self._domains()),
                    *((f"the network '{name}'", network.destroy) for name, network in self._networks()),
                    *((f"the volume '{volume.name()}'", volume.delete) for volume in self._volumes())]

        failures = []
        for what, remove in self._do("libvirt does not say what it has of the lab", _QUESTION_SECONDS, find):
            try:
                self._do(what, _CHANGE_SECONDS, remove)
            except LabError as error:
                failures.append(error.message.rstrip("."))
        return failures

    def _do(self, failure: str, seconds: float, work: Callable[[], Value], node: str = "") -> Value:
        """Make a call to libvirt, about `node` if given. Raises LabError with a message that begins with `failure`."""
        try:
            return within(seconds, work, _GRACE_SECONDS)
        except libvirt.libvirtError as error:
            raise LabError(f"{failure}: {error}.", hint="'labctl doctor' checks libvirt and QEMU.") from None
        except TimeoutError:
            who = f"the QEMU of the machine '{node}'" if node and self._answers() else self._place.daemon
            raise LabError(f"{failure}: {who} hangs; it did not answer within {seconds:.0f} s.",
                           hint=self._place.remedy) from None

    def _answers(self) -> bool:
        """Whether libvirt itself answers, so that only a machine hangs."""
        try:
            within(_ALIVE_SECONDS, self._connection.listAllDomains)
        except (TimeoutError, libvirt.libvirtError):
            return False
        return True

    def _all(self, failure: str, work: Callable[[Any], None], only: str | None = None) -> None:
        """Do something to each machine in turn, or to one of them, going on past failures.

        Raises the first failure at the end.
        """
        failures = []
        for node, domain in self._do(failure, _QUESTION_SECONDS, lambda: list(self._domains())):
            if only not in (None, node):
                continue
            try:
                self._do(failure, _HOLD_SECONDS, partial(work, domain), node)
            except LabError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _domain(self, node: str) -> Any:
        for name, domain in self._domains():
            if name == node:
                return domain
        raise LabError(f"The machine '{node}' is gone.")

    def _domains(self) -> Iterator[tuple[str, Any]]:
        for domain in self._connection.listAllDomains():
            part = self._part(domain)
            if part:
                yield part, domain

    def _networks(self) -> Iterator[tuple[str, Any]]:
        for network in self._connection.listAllNetworks():
            part = self._part(network)
            if part:
                yield part, network

    def _part(self, described: Any) -> str | None:
        lab = _metadata(described)
        return lab.get("part") if lab is not None and lab.get("uuid") == str(self.instance) else None

    # ---- Volumes, for a libvirt whose files are not ours -----------------------------------------------

    def base_volume(self, name: str, source: Path) -> Path:
        """Upload a file unless it is there already; labs share it. Returns its path on libvirt's machine."""
        failure = f"'{source.name}' could not be uploaded"
        with self._storage:
            pool = self._pool()
            there = self._do(failure, _QUESTION_SECONDS, lambda: _path_in(pool, name))
            if there:
                return there
            self._do(f"What is not used any more of '{_POOL}' could not be removed", _CHANGE_SECONDS,
                     lambda: self._forget_unused(pool))
            size = source.stat().st_size
            with source.open("rb") as file:
                upload = self._upload(pool, f"{self.instance}.{name}", file, size)
            # A volume has its full length from the start, so an interrupted upload looks complete. Therefore labs share
            # a copy, which libvirt makes by itself once the upload is complete, in the format that it detects.
            self._do(failure, _CHANGE_SECONDS, pool.refresh)
            format_ = "qcow2" if source.suffix == ".qcow2" else "raw"
            self._do(failure, _COPY_SECONDS, lambda: pool.createXMLFrom(_volume_xml(name, size, format_), upload))
            self._do(failure, _CHANGE_SECONDS, upload.delete)
            return Path(self._do(failure, _QUESTION_SECONDS, lambda: pool.storageVolLookupByName(name).path()))

    def lab_volume(self, name: str, data: bytes) -> Path:
        """Upload a file of this lab's own unless it is there already; it is removed with the lab."""
        name = f"{self.instance}.{name}"
        with self._storage:
            pool = self._pool()
            there = self._do(f"'{name}' could not be found", _QUESTION_SECONDS, lambda: _path_in(pool, name))
            return there or Path(self._upload(pool, name, io.BytesIO(data), len(data)).path())

    def overlay_volume(self, name: str, base: Path, size: int) -> Path:
        """Make an empty qcow2 overlay of `size` bytes on `base` unless it exists; it is removed with the lab."""
        name = f"{self.instance}.{name}"

        def make() -> Path:
            return _path_in(pool, name) or Path(pool.createXML(_volume_xml(name, size, "qcow2", base)).path())

        with self._storage:
            pool = self._pool()
            return self._do(f"The disk '{name}' could not be made", _CHANGE_SECONDS, make)

    def _upload(self, pool: Any, name: str, source: BinaryIO, size: int) -> Any:
        failure = f"'{name}' could not be uploaded"
        # The format "raw" keeps libvirt from looking into the file; the upload is its whole content.
        volume = self._do(failure, _CHANGE_SECONDS, lambda: pool.createXML(_volume_xml(name, size, "raw")))
        try:
            stream = self._connection.newStream()
            self._do(failure, _CHANGE_SECONDS, lambda: volume.upload(stream, 0, size))
            while part := source.read(_PART):
                while part:
                    part = part[self._do(failure, _STALL_SECONDS, partial(stream.send, part)):]
            self._do(failure, _COPY_SECONDS, stream.finish)
        except BaseException:
            self._do(failure, _CHANGE_SECONDS, volume.delete)
            raise
        return volume

    def _forget_unused(self, pool: Any) -> None:
        """Remove uploaded files of images that no machine here uses any more."""
        volumes = {volume: ET.fromstring(volume.XMLDesc()) for volume in pool.listAllVolumes()}
        used = {path.text for description in volumes.values() for path in description.iterfind("backingStore/path")}
        domains = "".join(domain.XMLDesc() for domain in self._connection.listAllDomains())
        for volume, description in volumes.items():
            age = time.time() - float(description.findtext("target/timestamps/mtime", "inf"))
            # Somebody may be about to use a new one.
            if _BASE.fullmatch(volume.name()) and age > _DAY and volume.path() not in used \
                    and volume.path() not in domains:
                volume.delete()

    def _pool(self) -> Any:
        def find_or_make() -> Any:
            for pool in self._connection.listAllStoragePools():
                if pool.name() == _POOL:
                    if not pool.isActive():
                        pool.create()
                    pool.refresh()
                    return pool
            xml = f"<pool type='dir'><name>{_POOL}</name><target><path>{_POOL_PATH}</path></target></pool>"
            pool = self._connection.storagePoolDefineXML(xml)
            pool.build()
            pool.create()
            return pool

        return self._do(f"The storage pool '{_POOL}' could not be made", _CHANGE_SECONDS, find_or_make)

    def volumes(self) -> dict[str, UUID]:
        """The names of all volumes there that belong to one lab, also of other users, with the lab's id."""
        found = {}
        for name in self._do("libvirt does not say which volumes there are", _QUESTION_SECONDS,
                             lambda: [volume.name() for volume in self._all_volumes()]):
            with suppress(ValueError):
                found[name] = UUID(name.partition(".")[0])
        return found

    def remove_volumes(self, names: Collection[str]) -> None:
        """Remove volumes by name, also those of other labs."""
        def remove() -> None:
            for volume in self._all_volumes():
                if volume.name() in names:
                    volume.delete()

        self._do("The volumes could not be removed", _CHANGE_SECONDS, remove)

    def _volumes(self) -> list[Any]:
        return [volume for volume in self._all_volumes() if volume.name().startswith(f"{self.instance}.")]

    def _all_volumes(self) -> list[Any]:
        try:
            return list(self._connection.storagePoolLookupByName(_POOL).listAllVolumes())
        except libvirt.libvirtError:
            return []  # A private room has no pool.


def _path_in(pool: Any, name: str) -> Path | None:
    """The path of the volume with this name; None if there is none."""
    return next((Path(volume.path()) for volume in pool.listAllVolumes() if volume.name() == name), None)


def _volume_xml(name: str, size: int, format_: str, base: Path | None = None) -> str:
    root = ET.Element("volume")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "capacity", unit="bytes").text = str(size)
    ET.SubElement(ET.SubElement(root, "target"), "format", type=format_)
    if base:
        backing = ET.SubElement(root, "backingStore")
        ET.SubElement(backing, "path").text = str(base)
        ET.SubElement(backing, "format", type="qcow2")
    return ET.tostring(root, encoding="unicode")


def _metadata(described: Any) -> Any:
    """labctl's metadata of a domain or network; None if it has none."""
    try:
        return ET.fromstring(described.XMLDesc()).find(f"metadata/{{{NAMESPACE}}}lab")
    except libvirt.libvirtError:
        return None  # It is gone by now.


def _pull_plug(domain: Any) -> None:
    with _may_end():
        domain.destroy()


@contextmanager
def _may_end() -> Iterator[None]:
    """Ignore libvirt's error if the machine has ended meanwhile."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            raise
