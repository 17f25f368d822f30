"""What this machine has left to give."""

import shutil
from pathlib import Path


def available_memory() -> int:
    """MiB, as the kernel estimates it (proc(5): MemAvailable)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) // 1024


def processor() -> str:
    """What the processor is and can do, as far as guests notice (proc(5): model name and flags of cpuinfo)."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "; ".join(sorted({line.partition(":")[2].strip() for line in lines
                             if line.startswith(("model name", "flags"))}))


def free_disk(directory: Path) -> tuple[int, Path]:
    """MiB that are free where `directory` is or will be, and the nearest directory that exists already."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free // 2**20, directory
