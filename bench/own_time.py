"""labctl's own time: commands that start nothing, beside a bare interpreter, and what they import."""

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

LIMIT = 0.5
"""Seconds, median."""
COMMANDS = (
    ("--help",),
    ("list",),
    ("plan", "lvs-dr-keepalived"),
    ("steps", "lvs-dr-keepalived"),
)
BARE = "python -c pass"
HEAVY = {"libvirt", "pytest", "_pytest"}
"""Modules that only the commands which need them may load."""


@dataclass(frozen=True)
class Time:
    """What one run took, in seconds."""

    wall: float
    cpu: float


def main() -> int:
    """Measure, print a table, and return 1 if a heavy module is imported."""
    parser = argparse.ArgumentParser(description="Time labctl's own share of its commands.")
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="of each command (%(default)s)")
    runs = parser.parse_args().runs
    if runs < 1:
        parser.error("--runs must be at least 1")
    commands = {BARE: [sys.executable, "-c", "pass"]}
    commands |= {f"labctl {' '.join(words)}": [sys.executable, "-m", "labctl", *words] for words in COMMANDS}

    try:
        return report(commands, measure(commands, runs))
    except subprocess.CalledProcessError as error:
        print(f"own_time: '{' '.join(error.cmd)}' failed with status {error.returncode}.\n{error.stderr}",
              file=sys.stderr)
        return 2


def report(commands: dict[str, list[str]], times: dict[str, list[Time]]) -> int:
    """Print the table; 1 if a command of labctl imports a heavy module, else 0."""
    print(f"Seconds; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}.\n")
    print(f"{'':34}{'min':>8}{'median':>8}{'limit':>8}{'CPU':>8}   imports")
    found = False
    for name, command in commands.items():
        walls = [time.wall for time in times[name]]
        line = f"{name:34}{min(walls):8.3f}{median(walls):8.3f}{'' if name == BARE else f'{LIMIT:.2f}':>8}"
        line += f"{median(time.cpu for time in times[name]):8.3f}"
        if name != BARE:
            heavy = imported_modules(command) & HEAVY
            found = found or bool(heavy)
            line += f"   {', '.join(sorted(heavy)) or 'neither libvirt nor pytest'}"
        print(line)
    return 1 if found else 0


def measure(commands: dict[str, list[str]], runs: int) -> dict[str, list[Time]]:
    """The time of each run of each command. They take turns, so that a slow moment hits all alike."""
    times: dict[str, list[Time]] = {name: [] for name in commands}
    for command in commands.values():
        run(command)  # once for the caches
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(run(command))
    return times


def run(command: list[str]) -> Time:
    """The time that a command takes from start to end. Raises CalledProcessError if it fails."""
    cpu, wall = children_cpu(), time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return Time(time.perf_counter() - wall, children_cpu() - cpu)


def children_cpu() -> float:
    """The processor time of all children so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def imported_modules(command: list[str]) -> set[str]:
    """The top-level modules that a command of this interpreter imports, late imports as well."""
    interpreter, *words = command
    result = subprocess.run([interpreter, "-X", "importtime", *words], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True, check=True)
    return set(re.findall(r"^import time:[^|]*\|[^|]*\|\s*(\w+)", result.stderr, re.MULTILINE))


if __name__ == "__main__":
    sys.exit(main())
