"""Real labs, started by the command that users type; what the suites that use machines share."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from labctl.base import paths
from labctl.images import accel

GUEST = "debian-12"
PATIENCE = 1 if not accel.kvm_problem() else 10
ROOT = Path(__file__).parents[1]

SOLO = """\
title: A machine by itself
networks:
  lan: { subnet: 10.10.10.0/24, host: 10.10.10.1 }
nodes:
  web: { lan: 10.10.10.11, memory: 256 }
"""

TINY = """\
title: A web server and its client
networks:
  lan: { subnet: 10.10.10.0/24, host: 10.10.10.1 }
nodes:
  web: { lan: 10.10.10.11, memory: 256 }
  client: { lan: 10.10.10.12, memory: 256 }
services:
  site: { type: httpd, nodes: [web] }
"""


@dataclass
class Result:
    """What a command came to."""

    code: int
    out: str
    err: str


@dataclass
class Labctl:
    """The labctl command, with directories of its own beside the user's image store."""

    environment: dict[str, str]
    directories: dict[str, Path] = field(default_factory=dict)
    processor: FileLock = field(default_factory=lambda: FileLock(tempfile.gettempdir() + "/labctl-tests.lock"))
    """Tests run two at a time. Whoever holds it starts all of a lab, or measures how long something takes; one or two
    machines that start beside it leave a processor to those that are busy."""

    @classmethod
    def new(cls, directories: pytest.TempPathFactory) -> "Labctl":
        """One whose labs nobody else sees."""
        base = directories.mktemp("xdg")
        # Not below pytest's own directories: a socket's path has to be short.
        runtime = Path(tempfile.mkdtemp(prefix="labctl-"))
        # What is saved of labs is its own; the templates that nodes start from are the user's, made once.
        cache = directories.mktemp("cache")
        (cache / "labctl").mkdir()
        paths.cache().mkdir(parents=True, exist_ok=True)
        for shared in ("boot", "libvirt"):
            (paths.cache() / shared).mkdir(exist_ok=True)
            (cache / "labctl" / shared).symlink_to(paths.cache() / shared)
        return cls({"XDG_STATE_HOME": str(base), "XDG_RUNTIME_DIR": str(runtime), "XDG_CACHE_HOME": str(cache),
                    "LABCTL_GUEST": GUEST, "LABCTL_ONCE": "1"}, {"state": base, "runtime": runtime})

    def dispose(self) -> None:
        """Take down the labs that are left."""
        self("down", "--all", code=None)
        shutil.rmtree(self.directories["runtime"])

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start it; the caller ends it."""
        return subprocess.Popen(self.command(*arguments), text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env={**os.environ, **self.environment, **environment})

    def command(self, *arguments: str) -> list[str]:
        """Its command line."""
        return [sys.executable, "-m", "labctl", *arguments]

    def __call__(self, *arguments: str, code: int | None = 0, timeout: float = 60 * PATIENCE, alone: bool = False,
                 **environment: str) -> Result:
        """Run it to its end, which has to have the exit code `code` (any, with None); `alone`: see `processor`."""
        with self.processor if alone else nullcontext():
            process = self.start(*arguments, **environment)
            try:
                out, err = process.communicate(timeout=timeout)
            finally:
                process.kill()
        if code is not None:
            assert process.returncode == code, f"labctl {' '.join(arguments)}: {process.returncode}\n{out}\n{err}"
        return Result(process.returncode, out, err)

    def json(self, *arguments: str) -> Any:
        """What it prints as JSON."""
        return json.loads(self(*arguments, "-o", "json").out)

    def leftovers(self) -> list[str]:
        """Files, processes and mounts that are there although no lab is up."""
        files = [str(path) for directory in self.directories.values() for path in directory.rglob("*")
                 if path.parent.name in ("labs", "labctl") and path.name not in ("labs", "labctl")]
        processes = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if any(str(path) in command for path in self.directories.values()):
                processes.append(command)
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines()
                  if any(str(path) in line for path in self.directories.values())]
        return files + processes + mounts
