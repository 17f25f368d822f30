"""A libvirt that was there before us (--host): the same lab, through volumes, and nothing foreign is touched."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from machines import GUEST, PATIENCE, Labctl

from labctl.base import namespace
from labctl.base.wait import Deadline, until
from labctl.machines import private_room

FOREIGN_NETWORK = "<network><name>somebody-elses</name><bridge name='other0'/></network>"


@dataclass
class Foreign:
    """A libvirtd in namespaces of its own, as it would be on another machine."""

    pid: int
    uri: str

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run something where its networks are."""
        return subprocess.run(["nsenter", "-t", str(self.pid), "-U", "--preserve-credentials", "-n", *words],
                              capture_output=True, text=True, timeout=60 * PATIENCE, check=False)

    def virsh(self, *words: str) -> str:
        """What virsh prints."""
        return subprocess.run(["virsh", "-q", "-c", self.uri, *words], capture_output=True, text=True, timeout=60,
                              check=True).stdout


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Foreign]:
    sockets = Path("/tmp") / f"labctl-foreign-{os.getpid()}"
    sockets.mkdir(mode=0o700)
    # A distribution's package of a libvirt that runs by itself makes this one.
    (tmp_path / "room/lib/dnsmasq").mkdir(parents=True)
    log = tmp_path / "log"
    process = namespace.spawn(
        ["unshare", "-n", "-m", "-p", "-f", "--mount-proc", "--kill-child", "--propagation", "private",
         "sh", private_room._INIT, "somebody-elses", tmp_path / "room", tmp_path / "cache", sockets, "0", "", "--"],
        log)
    socket = sockets / "libvirt-sock"
    assert until(socket.exists, Deadline(60), 0.1), log.read_text()
    yield Foreign(process.pid, f"qemu+unix:///system?socket={socket}")
    process.kill()
    process.wait()
    subprocess.run(["rm", "-rf", str(sockets)], check=True)


@pytest.mark.vm
def test_a_lab_on_an_existing_libvirt(foreign: Foreign, labctl: Labctl, tiny: str, tmp_path: Path) -> None:
    xml = tmp_path / "network.xml"
    xml.write_text(FOREIGN_NETWORK)
    foreign.virsh("net-create", str(xml))

    def inside(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        mine = {**labctl.environment, **environment}
        return foreign.inside("env", *(f"{key}={value}" for key, value in mine.items()), sys.executable, "-m", "labctl",
                              *words)

    up = inside("up", tiny, "--host", foreign.uri)
    assert up.returncode == 0, up.stderr
    assert sorted(foreign.virsh("list", "--name").split()) == ["tiny.client", "tiny.web"]
    assert inside("exec", "client", "curl", "-s", "http://web/").stdout == "web\n"
    before = foreign.virsh("list", "--uuid"), foreign.virsh("vol-list", "labctl")
    somebody = inside("up", tiny, "--host", foreign.uri, XDG_STATE_HOME=str(tmp_path / "another"))
    assert somebody.returncode == 2
    assert "has a lab called 'tiny' already" in somebody.stderr
    assert (foreign.virsh("list", "--uuid"), foreign.virsh("vol-list", "labctl")) == before
    checks = inside("test", "tiny")
    assert checks.returncode == 0, checks.stdout + checks.stderr
    down = inside("down")
    assert down.returncode == 0, down.stderr
    assert foreign.virsh("list", "--all", "--name").split() == []
    assert foreign.virsh("net-list", "--name").split() == ["somebody-elses"]
    volumes = foreign.virsh("vol-list", "labctl").split()
    assert all("tiny" not in volume and ".iso" not in volume for volume in volumes), volumes
    assert labctl.leftovers() == []


@pytest.mark.vm
def test_a_libvirt_that_is_not_there(labctl: Labctl, tiny: str) -> None:
    uri = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"
    result = labctl("up", tiny, "--guest", GUEST, "--host", uri, code=2)
    assert f"libvirt at '{uri}' cannot be reached" in result.err
    assert labctl.leftovers() == []
