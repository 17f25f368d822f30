"""Tests of what is fetched: over real connections and with real programs, but on this machine alone."""

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers import SECOND, digest
from mirror import Mirror, serving

from labctl.images import bases
from labctl.plan import guests
from labctl.plan.guests import Guest


@pytest.fixture(autouse=True)
def _own_files(own_files: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """Files of the test's own, as in all fast tests, and no proxy before the mirror."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A qcow2 image of 1.3 MiB, most of it data."""
    directory = tmp_path_factory.mktemp("image")
    raw = directory / "disk.raw"
    raw.write_bytes(random.Random(7).randbytes(2**20))
    disk = directory / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
    return disk.read_bytes()


@pytest.fixture
def mirror(image: bytes) -> Iterator[Mirror]:
    """A mirror that has the first of the guest's sources."""
    with serving(Mirror(image)) as running:
        yield running


@pytest.fixture
def guest(mirror: Mirror, image: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    """centos-7, whose sources are on the mirror."""
    directory = tmp_path / "guests"
    directory.mkdir()
    for file in guests.GUESTS.glob("*.yaml"):
        facts = yaml.safe_load(file.read_text())
        if "sources" in facts:
            facts["sources"] = [{"mirror": mirror.url, "path": path.removeprefix("/"), "sha256": digest(image)}
                                for path in (mirror.path, SECOND)]
        (directory / file.name).write_text(yaml.safe_dump(facts))
    monkeypatch.setattr(guests, "GUESTS", directory)
    return guests.load("centos-7")


@pytest.fixture(params=["empty", "with a base"])
def store(request: pytest.FixtureRequest, guest: Guest, tmp_path: Path, image: bytes) -> None:
    """The store before a mishap, from which it should not suffer."""
    if request.param != "empty":
        file = tmp_path / "own.qcow2"
        file.write_bytes(image + b"\0")
        assert not bases.import_(guest, file, unverified=True).manifest.verified
