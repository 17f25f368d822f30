"""Cold `labctl up`, warm `up`, `reset` and `down` of the same lab, in one run, for one or several numbers of nodes.

The first `up` boots and saves the lab, the second one restores it. With --nodes labs are made for the purpose: an
IPVS director, real servers, a client.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import yaml

from labctl.base import paths

LAB = "bench"


@dataclass
class Figures:
    """Seconds, and MiB."""

    nodes: int
    cold: float
    """Until the lab serves."""
    save: float
    """What `up` then still takes, until it returns."""
    warm: float
    reset: float
    down: float
    resident: float
    """All QEMU processes together."""
    kept: float
    """What the saved lab takes on the disk."""


def main() -> int:
    """Measure, and print a table and what can be plotted."""
    parser = argparse.ArgumentParser(description="Time cold and warm starts and resets of a lab.")
    parser.add_argument("topology", nargs="?", default="lvs-dr-keepalived", help="name or path (%(default)s)")
    parser.add_argument("--guest", default="debian-12", help="the operating system of the nodes (%(default)s)")
    parser.add_argument("--nodes", type=int, nargs="+", metavar="N", help="labs of so many nodes, instead of TOPOLOGY")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="warm starts and resets (%(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw it; needs matplotlib")
    arguments = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as temporary:
        directory = Path(temporary)
        for count in arguments.nodes or [0]:
            topology = str(made(count, directory)) if count else arguments.topology
            found.append(measure(topology, arguments.guest, directory, arguments.rounds))
            print_row(found[-1], first=len(found) == 1)
    if arguments.plot:
        plot(found, arguments.plot)
    return 0


def made(count: int, directory: Path) -> Path:
    """A lab of `count` nodes: a director, real servers, a client."""
    servers = [f"rs{number}" for number in range(1, count - 1)]
    nodes = ["lvs", *servers, "client"]
    path = directory / f"{count}.yaml"
    topology = {
        "title": f"{count} nodes",
        "networks": {"lan": {"subnet": "10.10.10.0/24", "host": "10.10.10.1"}},
        "nodes": {name: {"lan": f"10.10.10.{11 + number}"} for number, name in enumerate(nodes)},
        "services": {
            "apache": {"type": "httpd", "nodes": servers or ["lvs"]},
            **({"web": {"type": "ipvs", "vip": "10.10.10.100", "port": 80, "forward": "dr", "scheduler": "rr",
                        "directors": {"ipvsadm": ["lvs"]}, "real_servers": dict.fromkeys(servers, 1)}}
               if servers else {}),
        },
    }
    path.write_text(yaml.safe_dump(topology, sort_keys=False))
    return path


def measure(topology: str, guest: str, directory: Path, rounds: int) -> Figures:
    """All figures of one lab."""
    runtime = directory / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    cache = directory / "cache/labctl"
    environment = {"XDG_STATE_HOME": str(directory), "XDG_RUNTIME_DIR": str(runtime),
                   "XDG_CACHE_HOME": str(cache.parent), "LABCTL_GUEST": guest}
    up = ("up", topology, "--name", LAB)
    cache.mkdir(parents=True)
    # What is saved of labs is the bench's own; what nodes start from, and what libvirt knows of QEMU, is the user's.
    for shared in ("boot", "libvirt"):
        (paths.cache() / shared).mkdir(parents=True, exist_ok=True)
        (cache / shared).symlink_to(paths.cache() / shared)
    cold, all_of_it, _ = timed(*up, "--cold", **environment)
    resident, nodes = resident_memory(directory)
    warm, reset, down = [], [], []
    for _ in range(rounds):
        down.append(timed("down", LAB, **environment)[1])
        seconds, _, said = timed(*up, **environment)
        if "Starting from what was saved" not in said:
            sys.exit(f"warm_up: that was no warm start:\n{said}")
        warm.append(seconds)
        reset.append(timed("reset", LAB, **environment)[1])
    kept = sum(file.stat().st_blocks * 512 for home in (cache / "warm").iterdir() for file in home.rglob("*"))
    timed("down", LAB, **environment)
    shutil.rmtree(cache)
    return Figures(nodes, cold, all_of_it - cold, median(warm), median(reset), median(down), resident, kept / 2**20)


def timed(*words: str, **environment: str) -> tuple[float, float, str]:
    """Run labctl: seconds until it said that the last node serves, and until it ended; and all that it said."""
    before = time.monotonic()
    said, serving = "", 0.0
    with subprocess.Popen([sys.executable, "-m", "labctl", *words], env={**os.environ, **environment}, text=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr
        for line in process.stderr:
            said += line
            if re.search(r": serving$", line):
                serving = time.monotonic() - before
    if process.returncode:
        sys.exit(f"warm_up: labctl {' '.join(words)} failed:\n{said}")
    after = time.monotonic() - before
    return serving or after, after, said


def resident_memory(directory: Path) -> tuple[float, int]:
    """MiB of all machines whose files are in the directory, and how many there are."""
    sizes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if b"qemu" in command.split(b"\0")[0] and str(directory).encode() in command:
                sizes.append(int(re.findall(r"VmRSS:\s+(\d+)", (process / "status").read_text())[0]) / 1024)
        except OSError:
            continue
    return sum(sizes), len(sizes)


def print_row(figures: Figures, first: bool) -> None:
    """A row of a Markdown table."""
    if first:
        print("| nodes | cold up | save | warm up | reset | down | cold ÷ warm | resident | kept |")
        print("|---|---|---|---|---|---|---|---|---|")
    print(f"| {figures.nodes} | {figures.cold:.1f} s | {figures.save:.1f} s | {figures.warm:.1f} s | "
          f"{figures.reset:.1f} s | {figures.down:.1f} s | {figures.cold / figures.warm:.1f} | "
          f"{figures.resident:.0f} MiB | {figures.kept:.0f} MiB |", flush=True)


def plot(found: list[Figures], file: Path) -> None:
    """Seconds over nodes."""
    from matplotlib import pyplot  # noqa: PLC0415 (only this option needs it)

    nodes = [figures.nodes for figures in found]
    _, axes = pyplot.subplots(figsize=(7, 4))
    for name in ("cold", "warm", "reset", "down"):
        axes.plot(nodes, [asdict(figures)[name] for figures in found], marker="o", label=name)
    axes.set(xlabel="nodes", ylabel="seconds", yscale="log", xticks=nodes)
    axes.legend()
    axes.grid(alpha=0.3)
    pyplot.tight_layout()
    pyplot.savefig(file, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
