"""The machine that labctl runs on: its identity, processor, free memory and disk."""

import os
import shutil
from pathlib import Path

from labctl.base.errors import LabError

_TUN = Path("/dev/net/tun")


def hostname() -> str:
    """The machine's name."""
    return os.uname().nodename


def boot_id() -> str:
    """A random id that changes with each restart of the machine (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def install(debian: str, fedora: str) -> str:
    """The command that installs packages, which have names of their own in Debian's family and in Fedora's."""
    return f"sudo dnf install {fedora}" if shutil.which("dnf") else f"sudo apt-get install {debian}"


def available_memory() -> int:
    """The available memory in MiB, as the kernel estimates it (proc(5): MemAvailable)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) // 1024


def processor() -> str:
    """The processor's model and features, as far as guests notice (proc(5): model name and flags of cpuinfo)."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "; ".join(sorted({line.partition(":")[2].strip() for line in lines
                             if line.startswith(("model name", "flags"))}))


def free_disk(directory: Path) -> tuple[int, Path]:
    """The free disk space in MiB where `directory` is or will be, and the nearest directory that exists."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free // 2**20, directory


def check_tun() -> None:
    """Raise LabError if the machines' network interfaces cannot be created here."""
    if not _TUN.exists():
        raise LabError(f"There is no '{_TUN}', which the network interfaces of machines need.",
                       hint="'sudo modprobe tun' creates it; a container has to be started with it.")
    if not os.access(_TUN, os.R_OK | os.W_OK):
        raise LabError(f"You may not open '{_TUN}', which the network interfaces of machines need.",
                       hint=f"'sudo chmod 666 {_TUN}' lets everybody open it, as on most systems.")
