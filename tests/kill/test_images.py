"""labctl is ended while it changes the stores: they have what they had before or what they should have, and no more.

No machine boots: the distributor is this machine, disks are small, and QEMU and a recipe are played.
"""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moments
import pytest
import yaml
from machines import GUEST, TINY, Labctl, program, working_on
from mirror import Mirror, serving
from moments import Moment

from labctl.base.wait import Deadline, until
from labctl.plan import guests

_PLAYED = Path(__file__).with_name("played")
_PULLED = "based"
"""A guest whose image is made of a distributor's; the other one's is made of packages."""
_PACKED = "packed"
_WITHOUT_PIP = """
import sys
from labctl.images import bundle
from labctl.__main__ import main
bundle.fetch_wheels = lambda directory: []
main()
"""
_PASSING = (".part", ".part.json")
"""How names end of what a pull keeps to go on with."""


@dataclass(frozen=True)
class Scenario:
    """A command, and what has to be there before it."""

    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()


_PULL = ("image", "pull", _PULLED)
_IMPORT_OTHER = ("image", "import", _PULLED, "{other}", "--unverified")
_BUILD_PACKED = ("image", "build", _PACKED)
_LOAD = ("bundle", "load", "{bundle}")

SCENARIOS = {
    "image pull": Scenario(_PULL),
    "image pull in the place of another": Scenario(_PULL, before=(_IMPORT_OTHER,)),
    "image import": Scenario(("image", "import", _PULLED, "{disk}")),
    "image import in the place of another": Scenario(_IMPORT_OTHER, before=(_PULL,)),
    "image build of packages": Scenario(_BUILD_PACKED),
    "image build in the place of another": Scenario(_BUILD_PACKED, before=(_BUILD_PACKED,)),
    "image build of a base": Scenario(("image", "build", _PULLED), before=(_PULL,)),
    "bundle load": Scenario(_LOAD),
    "bundle load in the place of another": Scenario(_LOAD, before=(_LOAD,)),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each moment."""
    count = 16 if metafunc.config.getoption("--thorough") else 1
    metafunc.parametrize("moment", moments.sample([(name, count) for name in SCENARIOS], metafunc.config), ids=str)


class Rig:
    """A labctl with stores of its own."""

    def __init__(self, labctl: Labctl, home: Path, mirror: Mirror, disk: Path) -> None:
        self.labctl = labctl
        self._home = home / "own"
        self._own = {name: self._home / name for name in ("data", "cache", "config")}
        self._files = {"disk": disk, "other": home / "other.qcow2", "bundle": home / "course.tar"}
        self._files["other"].write_bytes(disk.read_bytes() + b"\0")
        self._whole: dict[str, tuple[int, set[str], Any]] = {}
        digest = hashlib.sha256(disk.read_bytes()).hexdigest()
        facts = yaml.safe_load((guests.GUESTS / f"{GUEST}.yaml").read_text())
        source = {"mirror": mirror.url, "path": mirror.path.removeprefix("/"), "sha256": digest}
        labctl.environment |= program(home / "program", {
            _PULLED: {**facts, "boot": "disk", "kernel_args": "", "recipe": "packed.sh", "sources": [source]},
            _PACKED: {**facts, "recipe": "packed.sh"},
        }, _PLAYED / "packed.sh")
        labctl.environment |= {
            "PATH": f"{_PLAYED}:{os.environ['PATH']}", "NO_PROXY": "127.0.0.1",
            **{f"XDG_{name.upper()}_HOME": str(self._own[name]) for name in ("data", "cache", "config")}}
        (home / "mine.yaml").write_text(TINY)
        self.prepare(Scenario((), before=(_BUILD_PACKED,)))
        labctl.run([sys.executable, "-c", _WITHOUT_PIP, "bundle", "create", str(self._files["bundle"]),
                    "--image", _PACKED, "--topology", str(home / "mine.yaml")])

    def prepare(self, scenario: Scenario) -> None:
        """Make the state that a command starts from."""
        shutil.rmtree(self._home, ignore_errors=True)
        for directory in self._own.values():
            directory.mkdir(parents=True)
        for words in scenario.before:
            self.labctl(*self._words(words))

    def end(self, scenario: Scenario, number: int = 0, signal_: str = "SIGKILL") -> moments.Ended:
        """Run its command and end it at an effect."""
        return moments.end(self.labctl, self._words(scenario.words), number, signal_)

    def whole(self, name: str) -> tuple[int, set[str], Any]:
        """How many effects a command has when nothing ends it, and which files and images are there afterwards."""
        if name not in self._whole:
            self.prepare(SCENARIOS[name])
            ended = self.end(SCENARIOS[name])
            assert ended.code == 0, str(ended)
            self._whole[name] = len(ended.effects), self.files(), self.images()
        return self._whole[name]

    def files(self) -> set[str]:
        """All that is in its directories."""
        found = {str(path.relative_to(self._home)) for path in self._home.rglob("*") if path.suffix != ".lock"}
        return {re.sub(r"_[a-z0-9_]{8}(?=/|$)", "_RANDOM", path) for path in found}

    def images(self) -> list[tuple[str, str, str]]:
        """What is in the stores, as labctl lists it: every file of it has to be what it is said to be."""
        rows = self.labctl.json("image", "list")
        for row in rows:
            if row["kind"] == "image":
                image = json.loads(self.labctl("image", "inspect", row["image"], "-o", "json").out)
                for name, file in image["files"].items():
                    assert _digest(Path(image["path"], name)) == file["sha256"], row
            else:
                assert _digest(self._own["data"] / "labctl/bases" / row["image"] / "disk.qcow2") == row["digest"]
        return [(row["image"], row["kind"], row["digest"]) for row in rows]

    def processes(self) -> list[str]:
        """What works on something of it."""
        return working_on(self._home)

    def _words(self, words: tuple[str, ...]) -> list[str]:
        return [word.format(**self._files) for word in words]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def rig(make_labctl: Callable[[], Labctl], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The stores that are used for all moments."""
    home = tmp_path_factory.mktemp("stores")
    raw, disk = home / "disk.raw", home / "disk.qcow2"
    raw.write_bytes(random.Random(7).randbytes(2**20))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
    with serving(Mirror(disk.read_bytes())) as mirror:
        yield Rig(make_labctl(), home, mirror, disk)


def test_a_command_that_is_ended(moment: Moment, rig: Rig) -> None:
    scenario = SCENARIOS[moment.name]
    count, files, images = rig.whole(moment.name)
    rig.prepare(scenario)
    files_before, images_before = rig.files(), rig.images()
    ended = rig.end(scenario, 1 + int(moment.share * count), moment.signal)
    assert ended.as_it_should(moment.signal), str(ended)
    try:
        assert until(lambda: not rig.processes(), Deadline(20)), rig.processes()
        assert rig.images() in (images_before, images)
        if moment.signal != "SIGKILL":
            assert {path for path in rig.files() - files_before - files if not path.endswith(_PASSING)} == set()
        again = rig.end(scenario)
        assert again.code == 0, str(again)
        assert (rig.files(), rig.images()) == (files, images)
    except AssertionError as error:
        raise AssertionError(f"{ended}\n{error}") from error
