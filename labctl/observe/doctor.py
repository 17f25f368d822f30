"""What private rooms need from this machine, and labs from a guest's image, each with a command that provides it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from labctl.base import namespace, paths
from labctl.base.errors import GateError, LabError
from labctl.base.files import tail
from labctl.base.machine import available_memory, check_tun, free_disk, install
from labctl.base.progress import Progress
from labctl.base.resources import TOPOLOGIES
from labctl.base.wait import Deadline, until
from labctl.images import accel, store
from labctl.labs import lifecycle
from labctl.labs.lab import Lab
from labctl.language import catalog, topology
from labctl.plan import guests, plan, probe
from labctl.plan.guests import Guest
from labctl.plan.plan import Plan
from labctl.plan.steps import Step

_LAB = "doctor"
_TOPOLOGY = """\
title: A machine to look at
networks:
  lan: { subnet: 10.10.10.0/24, host: 10.10.10.1 }
  other: { subnet: 10.10.20.0/24 }
nodes:
  Node1: { lan: 10.10.10.11, other: 10.10.20.11 }
"""
_ASK_SECONDS = 120
"""For a node to answer all questions."""
_CONSOLE_SECONDS = 5
_MEMORY_MIB = 3072
_DISK_MIB = 4096
_PACKAGES = {
    # program: (package on Debian and Ubuntu, package on Fedora and EL)
    "qemu-system-x86_64": ("qemu-system-x86", "qemu-kvm"),
    "qemu-img": ("qemu-utils", "qemu-img"),
    "libvirtd": ("libvirt-daemon libvirt-daemon-driver-qemu", "libvirt-daemon libvirt-daemon-driver-qemu "
                                                              "libvirt-daemon-driver-network"),
    "virsh": ("libvirt-clients", "libvirt-client"),
    "mmdebstrap": ("mmdebstrap", "mmdebstrap"),
    "mke2fs": ("e2fsprogs", "e2fsprogs"),
    "ssh": ("openssh-client", "openssh-clients"),
    "ssh-keygen": ("openssh-client", "openssh-clients"),
    "nc": ("netcat-openbsd", "nmap-ncat"),
    "nft": ("nftables", "nftables"),
    "ip": ("iproute2", "iproute"),
    "unshare": ("util-linux", "util-linux"),
    "nsenter": ("util-linux", "util-linux"),
    "setpriv": ("util-linux", "util-linux"),
    "mount": ("mount", "util-linux"),
}
_DRIVERS = ("qemu", "network", "storage")
"""Parts of libvirt that are separate packages since Debian 13 and Ubuntu 24.10, and on Fedora."""
_DRIVER_FILES = ("usr/lib/*/libvirt/connection-driver", "usr/lib64/libvirt/connection-driver",
                 "usr/lib/libvirt/connection-driver")
_ROOT = Path("/")
_KVM = Path("/dev/kvm")
_ROOM = """\
mount -t tmpfs -o mode=0755 labctl /etc && mkdir /etc/libvirt &&
mount -t sysfs sysfs /sys && ip link add labctl type bridge && exec "$@" true
"""
"""The first actions of a private room, and what starting a machine in it takes."""
_PROFILE = """\
abi <abi/4.0>,
profile labctl "{program}" flags=(unconfined) {{ userns, }}
"""
"""An AppArmor profile that lets labctl's program make user namespaces, as Ubuntu has for other programs."""


@dataclass(frozen=True)
class Finding:
    """The result for one thing. With a `note` labs work, but not as well as they could, or something comes first."""

    what: str
    verdict: Literal["fine", "note", "missing"]
    detail: str
    mend: str = ""


def examine() -> list[Finding]:
    """Look at everything; nothing is changed."""
    return [*_programs(), *_identity(), *_room(), *_devices(), *_space(), *_images()]


def plan_for(guest: Guest) -> Plan:
    """The plan of a lab with one node and no services, for examining a guest."""
    return plan.make(topology.parse(_TOPOLOGY, Path(f"{_LAB}.yaml")), _LAB, guest)


def examine_guest(guest: Guest, planned: Plan, progress: Progress) -> list[Finding]:
    """Start a node of a guest, test everything that steps and checks assume about it, and remove it again.

    Raises LabError if the node does not come up or cannot be asked.
    """
    chosen, remark = lifecycle.accelerator("auto", None)
    if remark:
        progress.say(remark)
    asked = questions(guest, planned)
    try:
        found = lifecycle.up(planned, chosen, None, progress, once=True)
    except GateError as error:
        raise GateError(error.message, hint=f"'labctl up base --guest {guest.name} --keep' leaves such machines, to "
                                            "look into them.") from None
    try:
        progress.say(f"Asking it {len(asked)} questions.")
        return _ask(found, asked)
    finally:
        lifecycle.down(found.name)


def questions(guest: Guest, planned: Plan) -> list[probe.Probe]:
    """The probes for everything that labctl assumes about a guest."""
    return probe.probes(planned, guest, _all_steps(guest))


def _all_steps(guest: Guest) -> Iterator[Step]:
    """All steps of all shipped topologies that the guest can run."""
    for path in sorted(TOPOLOGIES.glob("*.yaml")):
        parsed = catalog.load(path)
        if not guest.lacks.keys() & {service.type for service in parsed.services.values()}:
            for node in plan.make(parsed, path.stem, guest).nodes:
                yield from node.steps


def _ask(lab: Lab, asked: list[probe.Probe]) -> list[Finding]:
    node, = lab.plan.nodes
    output = lab.ssh.do(node.name, probe.script(asked), _ASK_SECONDS * lab.patience, "The node could not be asked")
    findings = [
        Finding(each.what, "fine", seen) if each.holds(seen) else
        Finding(each.what, "missing", f"{seen or 'nothing'}, and should be: {each.expected}")
        for each, seen in zip(asked, probe.answers(output), strict=True)]
    console = lab.host.console(node.name)
    if console and until(lambda: probe.CONSOLE_LINE.encode() in tail(console, 2**20),
                         Deadline(_CONSOLE_SECONDS * lab.patience)):
        return [*findings, Finding("console's log", "fine", "has what the node writes to its serial console")]
    return [*findings, Finding("console's log", "missing", "has nothing of what the node writes to its serial console")]


def _programs() -> Iterator[Finding]:
    for program, packages in _PACKAGES.items():
        path = accel.emulator() if program == accel.EMULATORS[0] else shutil.which(program)
        if path:
            yield Finding(program, "fine", path)
        else:
            yield Finding(program, "missing", "is not installed", install(*packages))
    if shutil.which("tcpdump"):
        yield Finding("tcpdump", "fine", "is installed; 'labctl capture' and 'labctl trace' use it")
    else:
        yield Finding("tcpdump", "note", "is not installed; 'labctl capture' and 'labctl trace' need it",
                      install("tcpdump", "tcpdump"))
    if not shutil.which("libvirtd"):
        return
    for driver in _DRIVERS:
        found = next((file for place in _DRIVER_FILES
                      for file in _ROOT.glob(f"{place}/libvirt_driver_{driver}.so")), None)
        if found:
            yield Finding(f"libvirt's driver {driver}", "fine", str(found))
        else:
            package = f"libvirt-daemon-driver-{driver}"
            yield Finding(f"libvirt's driver {driver}", "missing", "is not installed", install(package, package))


def _identity() -> Iterator[Finding]:
    if os.getuid() == 0:
        try:
            stranger = namespace.machine_user()
            yield Finding("user", "fine", f"root; machines run as the user {stranger}, who owns nothing")
        except LabError as error:
            yield Finding("user", "missing", error.message, error.hint)
        return
    for program in ("newuidmap", "newgidmap"):
        if shutil.which(program):
            yield Finding(program, "fine", "is installed")
        else:
            yield Finding(program, "missing", "is not installed", install("uidmap", "shadow-utils"))
    for file in ("/etc/subuid", "/etc/subgid"):
        try:
            namespace.subordinate(file)
            yield Finding(file, "fine", f"has subordinate ids for '{namespace.user_name()}'")
        except LabError as error:
            yield Finding(file, "missing", f"has no subordinate ids for '{namespace.user_name()}'", error.hint)


def _room() -> Iterator[Finding]:
    try:
        namespace.run(["unshare", "-n", "-m", "-p", "-f", "--mount-proc", "--propagation", "private",
                       "sh", "-c", _ROOM, "sh", *namespace.as_machine([])])
        yield Finding("namespaces", "fine", "a private room can be made")
    except LabError as error:
        yield Finding("namespaces", "missing", f"a private room cannot be made: {error.message}", _namespace_mend())


def _namespace_mend() -> str:
    """The change that is most likely needed, according to the kernel's settings."""
    if _kernel("user/max_user_namespaces") == "0":
        return _setting("user.max_user_namespaces=15000")
    if os.getuid() == 0:
        return "a container has to be started with the right to make namespaces, as by '--privileged'"
    if _kernel("kernel/unprivileged_userns_clone") == "0":
        return _setting("kernel.unprivileged_userns_clone=1")
    if _kernel("kernel/apparmor_restrict_unprivileged_userns") == "1":
        profile = _PROFILE.format(program=namespace.START).replace("\n", "\\n")
        return (f"printf '{profile}' | sudo tee /etc/apparmor.d/labctl && "
                "sudo apparmor_parser -r /etc/apparmor.d/labctl")
    return "what is missing above comes first"


def _kernel(setting: str) -> str:
    try:
        return (_ROOT / "proc/sys" / setting).read_text().strip()
    except OSError:
        return ""


def _setting(line: str) -> str:
    return f"echo {line} | sudo tee /etc/sysctl.d/90-labctl.conf && sudo sysctl --system"


def _devices() -> Iterator[Finding]:
    try:
        check_tun()
        yield Finding("/dev/net/tun", "fine", "can be opened")
    except LabError as error:
        yield Finding("/dev/net/tun", "missing", error.message, error.hint)
    problem = accel.kvm_problem()
    if problem:
        yield Finding("/dev/kvm", "note", f"{problem}; labs run with TCG, about ten times slower", _kvm_mend(problem))
    else:
        yield Finding("/dev/kvm", "fine", "a 64-bit guest runs on it")


def _kvm_mend(problem: str) -> str:
    if problem in (accel.NO_QEMU, accel.UNTRIED):
        return "what is missing above comes first"
    if problem != accel.NOT_ALLOWED:
        return "enable virtualization in the firmware, or in the hypervisor this machine runs on"
    group = _KVM.stat().st_gid
    if group and os.getuid():
        # Membership in the group would not do, since libvirt starts machines without the user's groups.
        return f"sudo usermod --add-subgids {group}-{group} {namespace.user_name()}"
    rule = 'KERNEL=="kvm", MODE="0666"'
    return f"echo '{rule}' | sudo tee /etc/udev/rules.d/90-labctl.rules && sudo chmod 666 /dev/kvm"


def _space() -> Iterator[Finding]:
    memory = available_memory()
    if memory >= _MEMORY_MIB:
        yield Finding("memory", "fine", f"{memory} MiB are available")
    else:
        yield Finding("memory", "missing", f"{memory} MiB are available, a lab of five nodes needs {_MEMORY_MIB} MiB",
                      "end other programs, or start smaller labs")
    free, directory = free_disk(paths.labs())
    if free >= _DISK_MIB:
        yield Finding("disk", "fine", f"{free} MiB are free in {directory}")
    else:
        yield Finding("disk", "missing", f"{free} MiB are free in {directory}, of {_DISK_MIB} MiB that are needed",
                      "labctl image rm NAME, or set XDG_DATA_HOME and XDG_STATE_HOME to a larger disk")


def _images() -> Iterator[Finding]:
    try:
        found = [image.name for image in store.images()]
    except LabError as error:
        yield Finding("images", "missing", error.message, error.hint)
        return
    if found:
        yield Finding("images", "fine", ", ".join(found))
    else:
        yield Finding("images", "note", "there are none yet", f"labctl image build {guests.buildable().name}")
