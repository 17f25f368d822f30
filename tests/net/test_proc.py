"""Processes are ended, and are gone then."""

import os
import subprocess
from pathlib import Path
from uuid import uuid4

from labctl.base import proc
from labctl.base.wait import Deadline, until

LARGE = "import sys, time; memory = bytearray(b'x') * 200_000_000; print('large', flush=True); time.sleep(600)"
"""A program that takes a while to end: the kernel has to give back its memory."""


def test_all_of_a_namespace_is_gone_once_its_first_process_is() -> None:
    mark = f"first:{uuid4()}"
    user = [] if os.getuid() == 0 else ["--map-root-user"]
    with subprocess.Popen(["unshare", *user, "-p", "-f", "--kill-child", "sh", "-c", "python3 -c \"$0\" & wait", LARGE,
                           mark], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout and started.stdout.readline() == "large\n"
        inside = proc.ours(lambda words: LARGE in words and mark not in words)
        assert inside
        assert proc.end(lambda: proc.ours(lambda words: mark in words), 30) == []
        assert [process for process in inside if process.runs] == []
        assert until(lambda: started.poll() is not None, Deadline(5), 0.05)
    assert not Path(f"/proc/{inside[0].pid}").exists()
