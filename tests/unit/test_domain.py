"""labctl.plan.domain: libvirt's XML."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid5
from xml.etree import ElementTree as ET

import pytest
from samples import GUESTS, plan_of

from labctl.plan import domain
from labctl.plan.domain import Disks, domain_xml, split, waiting

INSTANCE = UUID(int=1)
DISK = Disks(overlay=Path("/lab/rs1.qcow2"), seed=Path("/lab/rs1.iso"))
DIRECT = Disks(overlay=DISK.overlay, seed=DISK.seed, kernel=Path("/i/vmlinuz"), initrd=Path("/i/initrd.img"),
               console=Path("/lab/a & b.log"))


def xml(
    disks: Disks = DISK, accel: domain.Accel = "kvm", guest: str = "debian-12", node: str = "lvs"
) -> ET.Element:
    plan = plan_of(guest=guest)
    return ET.fromstring(domain.domain_xml(plan, INSTANCE, plan.node(node), disks, accel))


def attributes(root: ET.Element, path: str) -> dict[str, str]:
    found = root.find(path)
    assert found is not None, path
    return dict(found.attrib)


@pytest.mark.parametrize("guest", GUESTS)
def test_tcg_has_a_small_cache_and_a_plain_cpu(guest: str) -> None:
    root = xml(accel="tcg", guest=guest)
    assert root.get("type") == "qemu"
    assert (root.findtext("features/tcg/tb-cache"), attributes(root, "features/tcg/tb-cache")) == \
        ("256", {"unit": "MiB"})
    assert root.findtext("cpu/model") == plan_of(guest=guest).guest.tcg_cpu
    assert attributes(root, "cpu")["mode"] == "custom"


def test_kvm_has_the_hosts_cpu_and_nothing_of_tcg() -> None:
    root = xml(accel="kvm")
    assert root.get("type") == "kvm"
    assert attributes(root, "cpu") == {"mode": "host-passthrough"}
    assert root.find("features/tcg") is None


def test_a_guest_with_a_kernel_boots_it_directly() -> None:
    root = xml(DIRECT)
    assert (root.findtext("os/kernel"), root.findtext("os/initrd")) == ("/i/vmlinuz", "/i/initrd.img")
    assert (root.findtext("os/cmdline") or "").startswith("root=/dev/vda rw ")
    assert "\n" not in (root.findtext("os/cmdline") or "")
    assert root.find("os/boot") is None


@pytest.mark.parametrize(("accel", "same"), [("tcg", True), ("kvm", False)])
def test_only_under_tcg_programs_are_always_at_the_same_addresses(accel: domain.Accel, same: bool) -> None:
    assert ("norandmaps" in (xml(DIRECT, accel).findtext("os/cmdline") or "").split()) is same


def test_a_guest_without_a_kernel_boots_its_disk() -> None:
    root = xml(DISK)
    assert attributes(root, "os/boot") == {"dev": "hd"}
    assert [root.find(f"os/{part}") for part in ("kernel", "initrd", "cmdline")] == [None] * 3


def test_the_overlay_is_written_and_the_seed_is_not() -> None:
    overlay, seed = xml().findall("devices/disk")
    assert [attributes(disk, "target") for disk in (overlay, seed)] == \
        [{"dev": "vda", "bus": "virtio"}, {"dev": "vdb", "bus": "virtio"}]
    assert [attributes(disk, "source")["file"] for disk in (overlay, seed)] == [
        "/lab/rs1.qcow2",
        "/lab/rs1.iso",
    ]
    assert [attributes(disk, "driver")["type"] for disk in (overlay, seed)] == ["qcow2", "raw"]
    assert overlay.find("readonly") is None
    assert seed.find("readonly") is not None


def test_interfaces_are_on_the_labs_networks_in_order() -> None:
    lvs = plan_of().node("lvs")
    interfaces = xml().findall("devices/interface")
    assert [(attributes(i, "mac")["address"], attributes(i, "source")["network"]) for i in interfaces] == \
        [(lvs.interfaces[0].mac, "lab.lan"), (lvs.interfaces[1].mac, "lab.far")]
    assert {attributes(i, "model")["type"] for i in interfaces} == {"virtio"}


def test_the_console_is_kept_where_it_can_be() -> None:
    assert attributes(xml(DIRECT), "devices/serial/log")["file"] == "/lab/a & b.log"
    assert xml(DISK).find("devices/serial/log") is None


def test_all_machines_have_a_second_serial_port_whether_or_not_it_can_be_reached() -> None:
    ports = [xml(disks).find("devices/serial[2]")
             for disks in (DISK, replace(DISK, serial=Path("/run/10.10.10.12.serial")))]
    assert [(port.get("type"), attributes(port, "target")["port"]) for port in ports if port is not None] == [
        ("null", "1"), ("unix", "1")]
    assert attributes(xml(replace(DISK, serial=Path("/s"))), "devices/serial/source") == {"mode": "bind", "path": "/s"}


def test_size_and_identity_are_the_plans() -> None:
    plan = plan_of()
    root = xml()
    assert root.findtext("name") == "lab.lvs" == domain.name(plan, "lvs")
    assert root.findtext("uuid") == str(uuid5(INSTANCE, "lvs"))
    assert (root.findtext("memory"), attributes(root, "memory"), root.findtext("vcpu")) == (
        "384",
        {"unit": "MiB"},
        "1",
    )
    assert attributes(root, f"metadata/{{{domain.NAMESPACE}}}lab") == \
        {"name": "lab", "uuid": str(INSTANCE), "part": "lvs"}


def test_in_a_room_of_its_own_a_network_is_the_rooms_bridge_and_libvirt_adds_nothing() -> None:
    plan = plan_of()
    root = ET.fromstring(domain.network_xml(plan, INSTANCE, plan.networks[1], own_bridge=True))
    assert attributes(root, "forward") == {"mode": "bridge"}
    assert attributes(root, "bridge") == {"name": plan.networks[1].bridge}
    assert [root.find(part) for part in ("ip", "dns", "dhcp")] == [None] * 3


def test_elsewhere_a_network_is_isolated_without_dns_and_dhcp() -> None:
    plan = plan_of()
    lan, far = (
        ET.fromstring(domain.network_xml(plan, INSTANCE, network, own_bridge=False)) for network in plan.networks
    )
    assert attributes(lan, "ip") == {"address": "10.10.10.1", "prefix": "24"}
    assert far.find("ip") is None
    for root in (lan, far):
        assert root.find("forward") is None
        assert attributes(root, "dns") == {"enable": "no"}
        assert root.find("ip/dhcp") is None
        assert attributes(root, f"metadata/{{{domain.NAMESPACE}}}lab")["uuid"] == str(INSTANCE)


def test_bridges_have_names_that_linux_takes() -> None:
    names = [network.bridge for network in plan_of().networks]
    assert len(set(names)) == len(names)
    assert all(0 < len(name) < 16 for name in names)


def test_what_depends_on_who_a_machine_is_can_be_plugged_in_later() -> None:
    """Interfaces first and the seed last: once that is there, the guest looks at everything."""
    plan = plan_of()
    disks = Disks(Path("/o"), Path("/s"), Path("/k"), Path("/i"), Path("/m"))
    xml = domain_xml(plan, INSTANCE, plan.node("lvs"), disks, "tcg")
    bare, late = split(xml)
    assert [ET.fromstring(device).tag for device in late] == ["interface", "interface", "disk"]
    assert [source.attrib["file"] for source in ET.fromstring(late[-1]).iter("source")] == ["/s"]
    left = ET.fromstring(bare)
    assert left.findall("devices/interface") == []
    assert [source.attrib["file"] for source in left.iterfind("devices/disk/source")] == ["/o", "/m"]


def test_a_machine_waits_by_its_kernel_arguments() -> None:
    plan = plan_of()
    disks = Disks(Path("/o"), Path("/s"), Path("/k"), Path("/i"))
    xml = domain_xml(plan, INSTANCE, plan.node("rs1"), disks, "tcg")
    (before,) = ET.fromstring(xml).iterfind("os/cmdline")
    (after,) = ET.fromstring(waiting(xml, "wait.for=it")).iterfind("os/cmdline")
    assert after.text == f"{before.text} wait.for=it"


def test_each_device_has_its_own_place_whoever_the_node_is() -> None:
    def places(node: str, disks: Disks) -> list[tuple[str, str]]:
        root = xml(disks, node=node)
        return [(device.tag, attributes(device, "address")["slot"]) for device in root.iterfind("devices/*")
                if device.find("address") is not None]

    both = places("lvs", replace(DISK, media=Path("/m")))
    assert [what for what, _ in both] == ["disk", "disk", "disk", "interface", "interface", "rng"]
    assert len({slot for _, slot in both}) == len(both)
    assert set(places("rs1", DISK)) < set(both)


def test_ports_have_names_on_bridges_of_our_own_alone() -> None:
    plan = plan_of()

    def targets(node: str, own: bool) -> list[str | None]:
        described = domain.domain_xml(plan, INSTANCE, plan.node(node), DISK, "kvm", own_bridges=own)
        return [target.get("dev") for target in ET.fromstring(described).iterfind("devices/interface/target")]

    assert targets("lvs", own=False) == []
    named = [name for node in plan.nodes for name in targets(node.name, own=True)]
    assert named[:3] == ["node0-eth0", "node0-eth1", "node1-eth0"]
    assert len(set(named)) == sum(len(node.interfaces) for node in plan.nodes)
    assert all(len(name or "") < 16 for name in named)
