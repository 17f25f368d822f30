"""Real labs: booted once, by the command that users type, and shared by the tests of this directory."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from labctl import accel, store

GUEST = "debian-12"
PATIENCE = 1 if not accel.kvm_problem() else 10
ROOT = Path(__file__).parents[2]


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

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start it; the caller ends it."""
        return subprocess.Popen(self.command(*arguments), text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env={**os.environ, **self.environment, **environment})

    def command(self, *arguments: str) -> list[str]:
        """Its command line."""
        return [sys.executable, "-m", "labctl", *arguments]

    def __call__(self, *arguments: str, code: int | None = 0, timeout: float = 60 * PATIENCE,
                 **environment: str) -> Result:
        """Run it to its end, which has to have the exit code `code` (any, with None)."""
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


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A topology of two small nodes."""
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    return str(file)


@pytest.fixture(scope="session")
def image() -> store.Image:
    """The image that all labs run on; scripts/test has built it."""
    return store.find(GUEST)


@pytest.fixture(scope="session")
def make_labctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Labctl]]:
    """Makes labctl commands whose labs nobody else sees; takes down what they leave."""
    made: list[Labctl] = []

    def make() -> Labctl:
        base = tmp_path_factory.mktemp("xdg")
        # Not below pytest's own directories: a socket's path has to be short.
        runtime = Path(tempfile.mkdtemp(prefix="labctl-"))
        command = Labctl({"XDG_STATE_HOME": str(base), "XDG_RUNTIME_DIR": str(runtime), "LABCTL_GUEST": GUEST},
                         {"state": base, "runtime": runtime})
        made.append(command)
        return command

    yield make
    for command in made:
        command("down", "--all", code=None)
        shutil.rmtree(command.directories["runtime"])


@pytest.fixture
def labctl(make_labctl: Callable[[], Labctl]) -> Labctl:
    """A labctl of this test's own."""
    return make_labctl()


@pytest.fixture(scope="session")
def labs(make_labctl: Callable[[], Labctl]) -> Labctl:
    """A labctl with two labs up that have the same addresses: lvs-dr and lvs-dr-keepalived."""
    command = make_labctl()
    names = ["lvs-dr-keepalived", "lvs-dr"]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: command("up", name, timeout=120 * PATIENCE), names))
    return command


def failures(report: Path) -> dict[str, str]:
    """The failed checks of a JUnit report, with what they said."""
    found = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        for outcome in [*case.findall("failure"), *case.findall("error")]:
            found[case.attrib["name"]] = (outcome.text or "") + outcome.attrib.get("message", "")
    return found
