"""Every lab in turn: nodes, seconds of a cold `up` to serving, checks, seconds of `test`; as a Markdown table."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from warm_up import timed

from labctl.language import catalog


def main() -> int:
    """Measure; returns 1 where a check failed."""
    parser = argparse.ArgumentParser(description="Time 'up' and 'test' of every lab.")
    parser.add_argument("labs", nargs="*", default=catalog.names(), help="which ones (all)")
    parser.add_argument("--guest", default="debian-12", help="the operating system of the nodes (%(default)s)")
    arguments = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    print("| lab | nodes | cold up | checks | test |\n|---|---|---|---|---|")
    failed = False
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as temporary:
        directory = Path(temporary)
        (directory / "run").mkdir(mode=0o700)
        environment = {"XDG_STATE_HOME": temporary, "XDG_RUNTIME_DIR": str(directory / "run"),
                       "LABCTL_GUEST": arguments.guest}
        for lab in arguments.labs:
            cold, _, said = timed("up", lab, "--once", **environment)
            before = time.monotonic()
            test = subprocess.run([sys.executable, "-m", "labctl", "test", lab], env={**os.environ, **environment},
                                  text=True, capture_output=True, check=False)
            seconds = time.monotonic() - before
            timed("down", lab, **environment)
            nodes = len(set(re.findall(r" (\S+): serving", said)))
            print(f"| {lab} | {nodes} | {cold:.0f} s | {test.stdout.count('✓')} | {seconds:.0f} s |", flush=True)
            if test.returncode:
                failed = True
                print(test.stdout + test.stderr, file=sys.stderr, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
