"""libvirt: the only module that imports it. Changes nothing but the objects of one lab."""

import io
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID
from xml.etree import ElementTree as ET

import libvirt

from labctl.base import config
from labctl.base.errors import LabError
from labctl.base.wait import Deadline, until
from labctl.plan.domain import NAMESPACE

_POOL = "labctl"
_POOL_PATH = "/var/lib/libvirt/images/labctl"
_SETTLE_SECONDS = 60
"""The memory of a machine is written, or read, in a few."""
_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "shutting down",
    libvirt.VIR_DOMAIN_SHUTOFF: "off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
}


class Provider:
    """The domains, networks and volumes of one instance of a lab, at one libvirt."""

    def __init__(self, uri: str, instance: UUID) -> None:
        config.must_reach(uri)
        self.instance = instance
        self._storage = threading.RLock()  # Nodes start in threads; a pool takes one change at a time.
        # libvirt prints errors on its own; they are raised as well, and said once.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        with _errors(f"libvirt at '{uri}' cannot be reached"):
            self._connection = libvirt.open(uri)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def instances(self) -> dict[UUID, str]:
        """All labs that have machines or networks there, anybody's: their ids and names."""
        with _errors("libvirt does not say what there is"):
            objects = [*self._connection.listAllDomains(), *self._connection.listAllNetworks()]
        found = {}
        for each in objects:
            lab = _metadata(each)
            if lab is not None:
                with suppress(ValueError):
                    found[UUID(lab.get("uuid"))] = lab.get("name", "")
        return found

    def must_be_free(self, name: str) -> None:
        """Raise LabError if another lab there has this name, somebody else's or one that is not known any more."""
        for instance, other in self.instances().items():
            if other == name and instance != self.instance:
                uri = self._connection.getURI()
                raise LabError(f"The libvirt at '{uri}' has a lab called '{name}' already. No record here knows of it, "
                               "so it may be somebody else's.",
                               hint="'--name NAME' starts one under another name. If it was yours, "
                                    f"'labctl down --force {instance} --host {uri}' removes it.")

    def has_kvm(self) -> bool:
        """Whether libvirt's machine offers KVM."""
        try:
            self._connection.getDomainCapabilities(None, "x86_64", None, "kvm")
        except libvirt.libvirtError:
            return False
        return True

    # ---- Networks and domains ------------------------------------------------------------------------

    def create_network(self, xml: str) -> None:
        """Start a transient network. Raises LabError, also where one of that name exists."""
        with _errors("The network could not be made"):
            self._connection.networkCreateXML(xml)

    def create_domain(self, xml: str) -> None:
        """Start a transient domain. Raises LabError, also where one of that name exists."""
        with _errors("The machine could not be started"):
            self._connection.createXML(xml)

    def save(self, node: str, path: Path) -> None:
        """Write a node's memory to a file; the domain is gone then."""
        with _errors(f"The machine '{node}' could not be saved"):
            self._domain(node).saveFlags(str(path), None, libvirt.VIR_DOMAIN_SAVE_PAUSED)

    def restore(self, path: Path, *, paused: bool = False) -> None:
        """Start a transient domain as it was saved, and let it run unless it is `paused`."""
        state = libvirt.VIR_DOMAIN_SAVE_PAUSED if paused else libvirt.VIR_DOMAIN_SAVE_RUNNING
        with _errors("The machine could not be restored"):
            self._connection.restoreFlags(str(path), None, state)

    def settle(self) -> None:
        """Wait until libvirt has done what a labctl that was killed had begun. Raises LabError."""
        def idle() -> bool:
            with _errors("libvirt does not say what it is doing"):
                for _, domain in self._domains():
                    with _may_end():
                        if domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
                            return False
            return True

        if not until(idle, Deadline(_SETTLE_SECONDS), interval=0.1):
            raise LabError("libvirt does not get done with a machine.", hint="'labctl down' ends all of the lab.")

    def suspend(self) -> None:
        """Hold all nodes still, as close together as can be."""
        with _errors("The machines could not be held still"):
            for _, domain in list(self._domains()):
                domain.suspend()

    def resume(self) -> None:
        """Let all nodes that are held still go on, as close together as can be."""
        with _errors("The machines could not go on"):
            for _, domain in list(self._domains()):
                if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                    domain.resume()

    def attach(self, node: str, xml: str) -> None:
        """Plug a device into a node that runs."""
        with _errors(f"A device could not be plugged into '{node}'"):
            self._domain(node).attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def versions(self) -> str:
        """Of libvirt and of the emulator that it uses."""
        with _errors("libvirt does not say which it is"):
            return f"{self._connection.getLibVersion()} {self._connection.getVersion()}"

    def states(self) -> dict[str, str]:
        """The lab's nodes that exist, with their states; one that was destroyed does not exist."""
        found = {}
        with _errors("libvirt does not say which machines run"):
            for node, domain in self._domains():
                with _may_end():
                    found[node] = _STATES.get(domain.state()[0], "unknown")
        return found

    def destroy(self, node: str) -> None:
        """Pull the plug of a node; one that does not exist is no error."""
        with _errors(f"The machine '{node}' could not be stopped"):
            for name, domain in self._domains():
                if name == node:
                    _pull_plug(domain)

    def remove_all(self) -> list[str]:
        """Remove all that belongs to the lab; goes on past failures and returns them."""
        failures = []
        removals = [(f"the machine '{node}'", partial(_pull_plug, domain)) for node, domain in self._domains()]
        removals += [(f"the network '{name}'", network.destroy) for name, network in self._networks()]
        removals += [(f"the volume '{volume.name()}'", volume.delete) for volume in self._volumes()]
        for what, remove in removals:
            try:
                remove()
            except libvirt.libvirtError as error:
                failures.append(f"{what}: {error}")
        return failures

    def _domain(self, node: str) -> Any:
        return next(domain for name, domain in self._domains() if name == node)

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
        """Upload a file once; later labs use the same copy. Returns its path on libvirt's machine."""
        with self._storage, _errors(f"'{source.name}' could not be uploaded"):
            pool = self._pool()
            for volume in pool.listAllVolumes():
                if volume.name() == name:
                    return Path(volume.path())
            with source.open("rb") as file:
                return self._upload(pool, name, file, source.stat().st_size)

    def lab_volume(self, name: str, data: bytes) -> Path:
        """Upload the lab's own file; goes with the lab."""
        with self._storage, _errors(f"'{name}' could not be uploaded"):
            return self._upload(self._pool(), f"{self.instance}.{name}", io.BytesIO(data), len(data))

    def overlay_volume(self, name: str, base: Path, size: int) -> Path:
        """An empty qcow2 of `size` bytes over `base`; goes with the lab."""
        root = _volume_xml(f"{self.instance}.{name}", size, "qcow2")
        backing = ET.SubElement(root, "backingStore")
        ET.SubElement(backing, "path").text = str(base)
        ET.SubElement(backing, "format", type="qcow2")
        with self._storage, _errors(f"The disk '{name}' could not be made"):
            volume = self._pool().createXML(ET.tostring(root, encoding="unicode"))
            return Path(volume.path())

    def _upload(self, pool: Any, name: str, source: BinaryIO, size: int) -> Path:
        # Raw says only that libvirt is not to look into the file; the upload is its whole content.
        volume = pool.createXML(ET.tostring(_volume_xml(name, size, "raw"), encoding="unicode"))
        stream = self._connection.newStream()
        try:
            volume.upload(stream, 0, size)
            stream.sendAll(lambda _stream, count, _opaque: source.read(count), None)
            stream.finish()
        except BaseException:
            volume.delete()
            raise
        return Path(volume.path())

    def _pool(self) -> Any:
        with self._storage, _errors(f"The storage pool '{_POOL}' could not be made"):
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

    def volumes(self) -> dict[str, UUID]:
        """All volumes there that belong to one lab, anybody's: their names, and the lab's id."""
        found = {}
        for volume in self._all_volumes():
            with suppress(ValueError):
                found[volume.name()] = UUID(volume.name().partition(".")[0])
        return found

    def remove_volumes(self, names: Collection[str]) -> None:
        """Remove volumes, whosever they are."""
        with _errors("The volumes could not be removed"):
            for volume in self._all_volumes():
                if volume.name() in names:
                    volume.delete()

    def _volumes(self) -> list[Any]:
        return [volume for volume in self._all_volumes() if volume.name().startswith(f"{self.instance}.")]

    def _all_volumes(self) -> list[Any]:
        try:
            return list(self._connection.storagePoolLookupByName(_POOL).listAllVolumes())
        except libvirt.libvirtError:
            return []  # A room of our own has no pool.


def _volume_xml(name: str, size: int, format_: str) -> ET.Element:
    root = ET.Element("volume")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "capacity", unit="bytes").text = str(size)
    ET.SubElement(ET.SubElement(root, "target"), "format", type=format_)
    return root


def _metadata(described: Any) -> Any:
    """What labctl has written into a domain or a network; None where that is nothing."""
    try:
        return ET.fromstring(described.XMLDesc()).find(f"metadata/{{{NAMESPACE}}}lab")
    except libvirt.libvirtError:
        return None  # It went away while we looked.


def _pull_plug(domain: Any) -> None:
    with _may_end():
        domain.destroy()


@contextmanager
def _may_end() -> Iterator[None]:
    """For what is done with a machine that may end meanwhile: then there is nothing to do."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            raise


@contextmanager
def _errors(message: str) -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        raise LabError(f"{message}: {error}.", hint="'labctl doctor' checks libvirt and QEMU.") from None
