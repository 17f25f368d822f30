"""What a private room needs of this machine, and what labs need of a guest's image; with commands that mend it."""

import grp
import os
import pwd
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from labctl.base import paths
from labctl.base.errors import GateError, LabError
from labctl.base.machine import available_memory, free_disk
from labctl.base.process import CommandError, run
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
  node: { lan: 10.10.10.11, other: 10.10.20.11 }
"""
_ASK_SECONDS = 120
"""For a node to answer all questions"""
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
    "ip": ("iproute2", "iproute"),
    "unshare": ("util-linux", "util-linux"),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `slow` works, but not as well as it could."""

    what: str
    verdict: Literal["fine", "slow", "missing"]
    detail: str
    mend: str = ""


def examine() -> list[Finding]:
    """Look at everything; nothing is changed."""
    return [*_programs(), *_identity(), *_room(), *_devices(), *_space(), *_images()]


def plan_for(guest: Guest) -> Plan:
    """A lab with one node and nothing on it, to look at a guest."""
    return plan.make(topology.parse(_TOPOLOGY, Path(f"{_LAB}.yaml")), _LAB, guest)


def examine_guest(guest: Guest, planned: Plan, progress: Progress) -> list[Finding]:
    """Start a guest's node, look whether all that steps and checks take for granted holds, and remove it again.

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
    """All that is taken for granted of a guest."""
    return probe.probes(planned, guest, _all_steps(guest))


def _all_steps(guest: Guest) -> Iterator[Step]:
    """What is done to any node of a shipped topology, of those that the guest can run."""
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
    if console and until(lambda: probe.CONSOLE_LINE in console.read_text(errors="replace"),
                         Deadline(_CONSOLE_SECONDS * lab.patience)):
        return [*findings, Finding("console's log", "fine", "has what the node writes to its serial console")]
    return [*findings, Finding("console's log", "missing", "has nothing of what the node writes to its serial console")]


def _programs() -> Iterator[Finding]:
    for program, (debian, fedora) in _PACKAGES.items():
        path = shutil.which(program)
        if program == accel.EMULATORS[0]:
            path = accel.emulator()
        if path:
            yield Finding(program, "fine", path)
        else:
            mend = f"sudo dnf install {fedora}" if shutil.which("dnf") else f"sudo apt-get install {debian}"
            yield Finding(program, "missing", "is not installed", mend)


def _identity() -> Iterator[Finding]:
    if os.getuid() == 0:
        yield Finding("user", "fine", "root; rooms need no user namespace")
        return
    user = pwd.getpwuid(os.getuid()).pw_name
    for program in ("newuidmap", "newgidmap"):
        if shutil.which(program):
            yield Finding(program, "fine", "is installed")
        else:
            mend = "sudo dnf install shadow-utils" if shutil.which("dnf") else "sudo apt-get install uidmap"
            yield Finding(program, "missing", "is not installed", mend)
    for file, option in (("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")):
        try:
            lines = Path(file).read_text().splitlines()
        except OSError:
            lines = []
        if any(line.split(":")[0] in (user, str(os.getuid())) for line in lines):
            yield Finding(file, "fine", f"has subordinate ids for '{user}'")
        else:
            yield Finding(file, "missing", f"has no subordinate ids for '{user}'",
                          f"sudo usermod {option} 100000-165535 {user}")


def _room() -> Iterator[Finding]:
    user = [] if os.getuid() == 0 else ["--map-root-user", "--map-auto"]
    try:
        run(["unshare", *user, "-n", "-m", "-p", "-f", "--mount-proc", "true"])
        yield Finding("namespaces", "fine", "a private room can be made")
    except CommandError as error:
        yield Finding("namespaces", "missing", f"a private room cannot be made: {error.message}", _namespace_mend())


def _namespace_mend() -> str:
    for file, mend in (
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
         "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "sudo sysctl kernel.unprivileged_userns_clone=1"),
    ):
        wanted = mend[-1]
        if Path(file).exists() and Path(file).read_text().strip() != wanted:
            return mend
    return "sudo labctl … works without user namespaces"


def _devices() -> Iterator[Finding]:
    tun = Path("/dev/net/tun")
    if not tun.exists():
        yield Finding("/dev/net/tun", "missing", "does not exist", "sudo modprobe tun")
    elif not os.access(tun, os.R_OK | os.W_OK):
        yield Finding("/dev/net/tun", "missing", "cannot be opened by you", "sudo chmod 666 /dev/net/tun")
    else:
        yield Finding("/dev/net/tun", "fine", "can be opened")
    problem = accel.kvm_problem()
    kvm = Path("/dev/kvm")
    if not problem:
        yield Finding("/dev/kvm", "fine", "a 64-bit guest runs on it")
        return
    mend = "enable virtualization in the firmware, or in the hypervisor this machine runs on"
    if kvm.exists() and not os.access(kvm, os.R_OK | os.W_OK):
        group = _group_of(kvm)
        mend = f"sudo usermod -aG {group} {pwd.getpwuid(os.getuid()).pw_name} (and log in again)"
    yield Finding("/dev/kvm", "slow", f"{problem}; labs run with TCG, about ten times slower", mend)


def _group_of(path: Path) -> str:
    try:
        return grp.getgrgid(path.stat().st_gid).gr_name
    except KeyError:
        return "kvm"


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
        yield Finding("images", "missing", "there are none", f"labctl image build {guests.buildable().name}")
