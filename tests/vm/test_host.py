"""A libvirt that was there before us (--host): the same lab, through volumes, and nothing foreign is touched."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from machines import GUEST, PATIENCE, ROOT, Labctl

FOREIGN_NETWORK = "<network><name>somebody-elses</name><bridge name='other0'/></network>"


@dataclass
class Foreign:
    """A libvirtd in namespaces of its own, as it would be on another machine."""

    pid: int
    uri: str

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run something where its networks are."""
        user = [] if os.getuid() == 0 else ["-U", "--preserve-credentials"]
        return subprocess.run(["nsenter", "-t", str(self.pid), *user, "-n", *words], capture_output=True, text=True,
                              timeout=60 * PATIENCE, check=False)

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
    user = [] if os.getuid() == 0 else ["--map-root-user", "--map-auto"]
    process = subprocess.Popen(
        ["unshare", *user, "-n", "-m", "-p", "-f", "--mount-proc", "--kill-child", "--propagation", "private",
         "sh", ROOT / "labctl/room-init.sh", tmp_path / "room", tmp_path / "cache", sockets],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    socket = sockets / "libvirt-sock"
    deadline = time.monotonic() + 60
    while not socket.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    yield Foreign(pid, f"qemu+unix:///system?socket={socket}")
    process.kill()
    process.wait()
    subprocess.run(["rm", "-rf", str(sockets)], check=True)


@pytest.mark.vm
def test_a_lab_on_an_existing_libvirt(foreign: Foreign, labctl: Labctl, tiny: str, tmp_path: Path) -> None:
    xml = tmp_path / "network.xml"
    xml.write_text(FOREIGN_NETWORK)
    foreign.virsh("net-create", str(xml))
    environment = [f"{key}={value}" for key, value in labctl.environment.items()]

    def inside(*words: str) -> subprocess.CompletedProcess[str]:
        return foreign.inside("env", *environment, sys.executable, "-m", "labctl", *words)

    up = inside("up", tiny, "--host", foreign.uri)
    assert up.returncode == 0, up.stderr
    assert sorted(foreign.virsh("list", "--name").split()) == ["tiny.client", "tiny.web"]
    assert inside("exec", "client", "curl", "-s", "http://web/").stdout == "web\n"
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
