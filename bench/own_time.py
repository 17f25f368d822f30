"""labctl's own time: commands that touch no machine, beside a bare interpreter; and what they must not import."""

import argparse
import re
import subprocess
import sys
import time
from statistics import median

LIMIT = 0.5
"""Seconds, median."""
COMMANDS = (
    ("--help",),
    ("list",),
    ("plan", "lvs-dr-keepalived"),
    ("steps", "lvs-dr-keepalived"),
)
HEAVY = {"libvirt", "pytest", "_pytest"}
"""Modules that only the commands which need them may load."""


def main() -> int:
    """Measure, print a table, and return 1 if a heavy module is imported."""
    parser = argparse.ArgumentParser(description="Time labctl's own share of its commands.")
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="runs of each command (%(default)s)")
    runs = parser.parse_args().runs
    if runs < 1:
        parser.error("--runs must be at least 1")
    bare = [sys.executable, "-c", "pass"]
    commands = {"python -c pass": bare}
    commands |= {f"labctl {' '.join(words)}": [sys.executable, "-m", "labctl", *words] for words in COMMANDS}

    times = measure(commands, runs)
    print(f"{'':34}{'min':>8}{'median':>8}{'limit':>8}   imports")
    found = False
    for name, command in commands.items():
        heavy = [] if command is bare else sorted(imported_modules(command) & HEAVY)
        found = found or bool(heavy)
        limit = "" if command is bare else f"{LIMIT:.2f}"
        remark = "" if command is bare else ", ".join(heavy) or "neither libvirt nor pytest"
        print(f"{name:34}{min(times[name]):8.3f}{median(times[name]):8.3f}{limit:>8}   {remark}".rstrip())
    return 1 if found else 0


def measure(commands: dict[str, list[str]], runs: int) -> dict[str, list[float]]:
    """Seconds per run of each command. They take turns, so that a slow moment of the machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for command in commands.values():
        seconds(command)  # once for the caches
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(seconds(command))
    return times


def seconds(command: list[str]) -> float:
    """The time that a command takes from start to end. Raises CalledProcessError if it fails."""
    before = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return time.perf_counter() - before


def imported_modules(command: list[str]) -> set[str]:
    """The top-level modules that a command of this interpreter imports, late imports as well."""
    interpreter, *words = command
    result = subprocess.run([interpreter, "-X", "importtime", *words], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True, check=True)
    return {match[1] for match in re.finditer(r"^import time:[^|]*\|[^|]*\|\s*(\w+)", result.stderr, re.MULTILINE)}


if __name__ == "__main__":
    sys.exit(main())
