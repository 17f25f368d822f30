"""The time of `labctl image build` into an empty store, and the size of what it makes."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 120
"""Seconds."""


def main() -> int:
    """Build once, print the figures, and return labctl's exit code."""
    parser = argparse.ArgumentParser(description="Time 'labctl image build' into an empty store.")
    parser.add_argument("guest", nargs="?", default="debian-12", help="what to build (%(default)s)")
    parser.add_argument("--mirror", help="the Debian mirror to build from, as for labctl")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        home = Path(temporary)
        home.chmod(0o755)  # the build's subordinate ids have to get through
        options = ["--mirror", arguments.mirror] if arguments.mirror else []
        seconds, code = build([arguments.guest, *options], home)
        if code:
            for log in home.glob("cache/labctl/build-*.log"):
                print("The end of that log:", *log.read_text(errors="replace").splitlines()[-10:],
                      sep="\n  ", file=sys.stderr)
            return code
        print(f"labctl image build {arguments.guest}: {seconds:.1f} s (limit {LIMIT} s)")
        print_sizes(home / "data" / "labctl" / "images" / arguments.guest)
    return 0


def build(words: list[str], home: Path) -> tuple[float, int]:
    """Run the build with its store, log and labs in `home`; the seconds it took, and its exit code."""
    environment = {**os.environ, "XDG_DATA_HOME": str(home / "data"), "XDG_CACHE_HOME": str(home / "cache"),
                   "XDG_STATE_HOME": str(home / "state")}
    before = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "labctl", "image", "build", *words], env=environment,
                               stdin=subprocess.DEVNULL)
    with process:
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # labctl removes what it has begun
            process.wait()
            raise
    return time.monotonic() - before, code


def print_sizes(image: Path) -> None:
    """The image's files: how long they are, and what they occupy."""
    files = [path for path in sorted(image.resolve().iterdir()) if path.is_file()]
    for path in files:
        print(f"  {path.name:16}{path.stat().st_size / 2**20:9.1f} MiB")
    total = sum(path.stat().st_size for path in files)
    occupied = sum(path.stat().st_blocks * 512 for path in files)
    print(f"  {'together':16}{total / 2**20:9.1f} MiB, {occupied / 2**20:.1f} MiB on disk")


if __name__ == "__main__":
    sys.exit(main())
