"""libvirt's XML for a lab's networks and domains. Pure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from uuid import UUID, uuid5
from xml.etree import ElementTree as ET

from labctl.plan.plan import Interface, Plan, PlannedNetwork, PlannedNode

Accel: TypeAlias = Literal["kvm", "tcg"]

NAMESPACE = "urn:labctl:lab"
"""The XML namespace of the metadata that marks labctl's own objects; labctl never touches others."""
TB_CACHE_MIB = 256
"""The size of TCG's translation cache. A boot fills half of it; QEMU's default of 1 GiB would triple the memory of a VM
that has been busy for long."""
SAME_ADDRESSES = "norandmaps"
"""The kernel argument that disables address space randomisation. TCG finds translated code by its virtual address; with
random addresses it would translate a program anew at each start."""

_SLOTS = {"vda": 2, "vdb": 3, "vdc": 4, "rng": 5}
"""The PCI slot of each device. Devices keep their slots whether a machine is booted with them, gets them plugged in, or
goes on from saved memory, so the plan alone determines its XML."""
_FIRST_INTERFACE = 6
"""The slot of a node's first interface; the others follow it."""

ET.register_namespace("labctl", NAMESPACE)


@dataclass(frozen=True)
class Disks:
    """The paths of a domain's files on libvirt's machine."""

    overlay: Path
    seed: Path
    kernel: Path | None = None
    initrd: Path | None = None
    media: Path | None = None
    console: Path | None = None
    """A file that gets a copy of the serial console; None if the host keeps none."""
    serial: Path | None = None
    """The socket of the second serial port; None if labctl cannot reach it."""


def name(plan: Plan, node: str) -> str:
    """The domain's name, unique on a libvirt that several labs share."""
    return f"{plan.lab}.{node}"


def network_name(plan: Plan, network: str) -> str:
    """The libvirt network's name, unique on a libvirt that several labs share."""
    return f"{plan.lab}.{network}"


def port(plan: Plan, node: PlannedNode, interface: Interface) -> str:
    """The name of a node's port on a bridge of our own: the same one each time it starts, and short (15 bytes)."""
    return f"node{plan.nodes.index(node)}-{interface.name}"


def node_uuid(instance: UUID, node: str) -> UUID:
    """The domain's UUID, which differs between instances of a lab."""
    return uuid5(instance, node)


def network_xml(plan: Plan, instance: UUID, network: PlannedNetwork, own_bridge: bool) -> str:
    """A host-only network.

    In a private room the bridge exists already (`own_bridge`), and libvirt adds neither dnsmasq nor firewall rules.
    Elsewhere libvirt creates an isolated bridge with the physical machine's address.
    """
    root = ET.Element("network")
    _sub(root, "name", network_name(plan, network.name))
    _metadata(root, plan, instance, network.name)
    if own_bridge:
        _sub(root, "forward", mode="bridge")
        _sub(root, "bridge", name=network.bridge)
    else:
        _sub(root, "bridge", stp="off", delay="0")
        _sub(root, "dns", enable="no")
        if network.host:
            _sub(root, "ip", address=str(network.host), prefix=str(network.subnet.prefixlen))
    return _pretty(root)


def domain_xml(plan: Plan, instance: UUID, node: PlannedNode, disks: Disks, accel: Accel, *,
               own_bridges: bool = False) -> str:
    """A transient machine: virtio disks and network, a serial console, nothing else.

    On bridges of our own (`own_bridges`) its ports have names; elsewhere they could be those of another lab's.
    """
    root = ET.Element("domain", type="kvm" if accel == "kvm" else "qemu")
    _sub(root, "name", name(plan, node.name))
    _sub(root, "uuid", str(node_uuid(instance, node.name)))
    _metadata(root, plan, instance, node.name)
    _sub(root, "memory", str(node.memory), unit="MiB")
    _sub(root, "vcpu", str(node.cpus))
    system = _sub(root, "os")
    _sub(system, "type", "hvm", arch="x86_64", machine="pc")
    if disks.kernel and disks.initrd:
        _sub(system, "kernel", str(disks.kernel))
        _sub(system, "initrd", str(disks.initrd))
        arguments = plan.guest.kernel_args.split()
        _sub(system, "cmdline", " ".join([*arguments, SAME_ADDRESSES] if accel == "tcg" else arguments))
    else:
        _sub(system, "boot", dev="hd")
    features = _sub(root, "features")
    _sub(features, "acpi")
    if accel == "tcg":
        _sub(_sub(features, "tcg"), "tb-cache", str(TB_CACHE_MIB), unit="MiB")
        _sub(_sub(root, "cpu", mode="custom", match="exact"), "model", plan.guest.tcg_cpu, fallback="forbid")
    else:
        _sub(root, "cpu", mode="host-passthrough")
    _sub(root, "clock", offset="utc")
    _sub(root, "on_poweroff", "destroy")
    _sub(root, "on_reboot", "restart")
    _sub(root, "on_crash", "preserve")
    devices = _sub(root, "devices")
    _disk(devices, "vda", disks.overlay, "qcow2")
    _sub(_disk(devices, "vdb", disks.seed, "raw"), "readonly")
    if disks.media:
        _sub(_disk(devices, "vdc", disks.media, "raw"), "readonly")
    for slot, interface in enumerate(node.interfaces, _FIRST_INTERFACE):
        element = _sub(devices, "interface", type="network")
        _sub(element, "mac", address=interface.mac)
        _sub(element, "source", network=network_name(plan, interface.network))
        if own_bridges:
            _sub(element, "target", dev=port(plan, node, interface))
        _sub(element, "model", type="virtio")
        _at(element, slot)
    _console(devices, disks.console)
    _second_serial_port(devices, disks.serial)
    random = _sub(devices, "rng", model="virtio")
    _sub(random, "backend", "/dev/urandom", model="random")
    _at(random, _SLOTS["rng"])
    _sub(devices, "memballoon", model="none")
    return _pretty(root)


def split(xml: str) -> tuple[str, list[str]]:
    """Split a machine's XML into a machine without identity, and the devices to plug in later, its seed last."""
    root = ET.fromstring(xml)
    devices = root.find("devices")
    assert devices is not None
    seeds = [disk for disk in devices.findall("disk") if disk.find("target[@dev='vdb']") is not None]
    late = [*devices.findall("interface"), *seeds]
    for device in late:
        devices.remove(device)
    return _pretty(root), [_pretty(device) for device in late]


def waiting(xml: str, arguments: str) -> str:
    """A machine's XML with the kernel arguments that make its image wait for an identity."""
    root = ET.fromstring(xml)
    for command_line in root.iterfind("os/cmdline"):
        command_line.text = f"{command_line.text} {arguments}"
    return _pretty(root)


def tap_mac(mac: str) -> str:
    """The MAC address of the tap that a machine's interface ends at.

    libvirt changes the first byte (virNetDevTapCreateInBridgePort), so that the machine itself has the lower one.
    """
    return f"fe{mac[2:]}"


def _disk(devices: ET.Element, target: str, path: Path, format_: str) -> ET.Element:
    disk = _sub(devices, "disk", type="file", device="disk")
    # A lab is made anew rather than repaired, so its disks need not survive a power failure of the host.
    _sub(disk, "driver", name="qemu", type=format_, cache="unsafe")
    _sub(disk, "source", file=str(path))
    _sub(disk, "target", dev=target, bus="virtio")
    _at(disk, _SLOTS[target])
    return disk


def _at(device: ET.Element, slot: int) -> None:
    """Give a device its place on the only PCI bus."""
    _sub(device, "address", type="pci", domain="0x0000", bus="0x00", slot=f"{slot:#04x}", function="0x0")


def _console(devices: ET.Element, log: Path | None) -> None:
    serial = _sub(devices, "serial", type="pty")
    if log:
        _sub(serial, "log", file=str(log), append="on")
    _sub(serial, "target", port="0")
    _sub(_sub(devices, "console", type="pty"), "target", type="serial", port="0")


def _second_serial_port(devices: ET.Element, socket: Path | None) -> None:
    """Add the second serial port, without a socket if there is none, so that all machines have the same devices."""
    serial = _sub(devices, "serial", type="unix" if socket else "null")
    if socket:
        _sub(serial, "source", mode="bind", path=str(socket))
    _sub(serial, "target", port="1")


def _metadata(root: ET.Element, plan: Plan, instance: UUID, part: str) -> None:
    lab = ET.SubElement(_sub(root, "metadata"), f"{{{NAMESPACE}}}lab")
    lab.set("name", plan.lab)
    lab.set("uuid", str(instance))
    lab.set("part", part)


def _sub(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _pretty(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
