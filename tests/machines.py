"""Real labs, started by the command that users type; what the suites that use machines share."""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import forked
import pytest
import yaml

from labctl.base import paths
from labctl.base.wait import Deadline, until
from labctl.images import accel
from labctl.machines import sockets

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


Use = Literal["start", "measure"]
"""What a command needs the processors for: to start all of a lab, or to measure how long something takes."""


@contextmanager
def processors(use: Use) -> Iterator[None]:
    """Wait until nobody uses the processors who would be in the way, of all tests that this user runs.

    Two labs that start at once take longer than one after the other, and who measures has to share the processors with
    no start. Several can measure at once: most of that is waiting. One or two machines that start are in nobody's way.
    """
    with (_home() / "processors").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if use == "start" else fcntl.LOCK_SH)
        yield


def sweep() -> None:
    """Take down the labs of tests that were killed, or interrupted before they could do it themselves."""
    for path in _home().glob("*.json"):
        if not path.exists():  # pytest keeps the directories of a few runs only.
            path.unlink()
            continue
        with path.open() as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Labctl(json.load(file), file).dispose()


def program(home: Path, own: Mapping[str, object], recipe: Path) -> dict[str, str]:
    """Copy labctl, with more guests (their facts, by name) and the recipe for their images; returns what makes it run.

    Guests and recipes are data beside the package.
    """
    for part in ("labctl", "topologies", "cloud-init", "tests/labs"):
        shutil.copytree(ROOT / part, home / part)
    shutil.copy(recipe, home / "cloud-init/images")
    for name, facts in own.items():
        (home / f"cloud-init/guests/{name}.yaml").write_text(yaml.safe_dump(facts))
    return {"PYTHONPATH": str(home), "PYTHONSAFEPATH": "1"}


def working_on(*places: Path) -> list[str]:
    """The command lines of processes that name one of these paths."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(str(place) in command for place in places):
            found.append(command)
    return found


def _home() -> Path:
    """Where all tests of this user's meet."""
    home = paths.cache() / "tests"
    home.mkdir(parents=True, exist_ok=True)
    return home


@dataclass
class Labctl:
    """The labctl command, with directories of its own beside the user's image store."""

    environment: dict[str, str]
    known: IO[str]
    """A file that says what the environment is, locked while the tests' process lives: see `sweep`."""

    @classmethod
    def new(cls, directories: pytest.TempPathFactory) -> "Labctl":
        """One whose labs nobody else sees."""
        base = directories.mktemp("xdg")
        # Not below pytest's own directories: a socket's path has to be short.
        runtime = Path(tempfile.mkdtemp(prefix="labctl-"))
        # What is saved of labs is its own; the templates that nodes start from are the user's, made once.
        cache = directories.mktemp("cache")
        (cache / "labctl").mkdir()
        for shared in ("boot", "libvirt"):
            (paths.cache() / shared).mkdir(parents=True, exist_ok=True)
            (cache / "labctl" / shared).symlink_to(paths.cache() / shared)
        # Of the user's data it has the images alone.
        data = directories.mktemp("data")
        (data / "labctl").mkdir()
        for shared in (paths.images(), paths.bases()):
            shared.mkdir(parents=True, exist_ok=True)
            (data / "labctl" / shared.name).symlink_to(shared)
        environment = {"XDG_DATA_HOME": str(data), "XDG_STATE_HOME": str(base), "XDG_CACHE_HOME": str(cache),
                       "XDG_RUNTIME_DIR": str(runtime), "LABCTL_GUEST": GUEST, "LABCTL_ONCE": "1"}
        known = (base / "environment").open("w")
        fcntl.flock(known, fcntl.LOCK_EX)
        json.dump(environment, known)
        known.flush()
        (_home() / f"{runtime.name}.json").symlink_to(known.name)
        return cls(environment, known)

    @property
    def directories(self) -> dict[str, Path]:
        """Where its labs are."""
        return {"state": Path(self.environment["XDG_STATE_HOME"]), "runtime": Path(self.environment["XDG_RUNTIME_DIR"])}

    def dispose(self) -> None:
        """Take down the labs that are left."""
        # Another command may be about to take one down, because it was interrupted.
        until(lambda: self("down", "--all", code=None).code == 0, Deadline(60))
        runtime = self.directories["runtime"]
        shutil.rmtree(runtime, ignore_errors=True)
        (_home() / f"{runtime.name}.json").unlink()
        self.known.close()

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start it; the caller ends it."""
        return self._popen(self.command(*arguments), environment)

    def command(self, *arguments: str) -> list[str]:
        """Its command line."""
        return [sys.executable, "-m", "labctl", *arguments]

    def __call__(self, *arguments: str, code: int | None = 0, timeout: float = 60 * PATIENCE, use: Use | None = None,
                 **environment: str) -> Result:
        """Run it to its end, which has to have the exit code `code` (any, with None); `use`: see `processors`."""
        mine = {**self.environment, **environment}
        with processors(use) if use else nullcontext():
            if "PYTHONPATH" in mine:  # Another labctl than the one that is loaded.
                return self.run(self.command(*arguments), code=code, timeout=timeout, **environment)
            return _result(["labctl", *arguments], code, *forked.run(arguments, {**os.environ, **mine}, timeout))

    def run(self, command: list[str], *, code: int | None = 0, timeout: float = 60 * PATIENCE,
            **environment: str) -> Result:
        """Run another program with its directories."""
        process = self._popen(command, environment)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return _result(command, code, process.returncode, out, err)

    def _popen(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env={**os.environ, **self.environment, **environment})

    def json(self, *arguments: str) -> Any:
        """What it prints as JSON."""
        return json.loads(self(*arguments, "-o", "json").out)

    def leftovers(self) -> list[str]:
        """Files, processes and mounts that are there although no lab is up."""
        files = [str(path) for directory in self.directories.values() for path in directory.rglob("*")
                 if path.parent.name in ("labs", "labctl") and path.name not in ("labs", "labctl")]
        files += [str(found) for found in sockets.directories() for lab in [sockets.whose(found)]
                  if lab and lab.is_relative_to(self.directories["state"])]
        processes = working_on(*self.directories.values())
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines()
                  if any(str(path) in line for path in self.directories.values())]
        return files + processes + mounts


def _result(command: list[str], wanted: int | None, code: int, out: str, err: str) -> Result:
    if wanted is not None:
        assert code == wanted, f"{shlex.join(command)}: {code}\n{out}\n{err}"
    return Result(code, out, err)
