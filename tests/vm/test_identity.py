"""A lab is found again whatever was lost of it, and what labctl says of it is so."""

import json
import shutil
import signal
import subprocess
import time

import pytest
from machines import PATIENCE, Labctl

from labctl.base.wait import Deadline, until
from labctl.machines import private_room


@pytest.mark.vm
@pytest.mark.parametrize("seconds", [0, 0.03, 0.1, 0.3])
def test_killed_while_the_room_opens(seconds: float, labctl: Labctl, solo: str) -> None:
    """The room outlives labctl, and is found by what it was started with."""
    directory = labctl.directories["state"] / "labctl/labs/solo"
    process = labctl.start("up", solo, "--accel", "tcg")
    assert until(lambda: directory in private_room.there_are().values(), Deadline(PATIENCE + 10), 0.001)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert labctl.json("list")[0]["state"] in ("not ready", "gone")
    labctl("down")
    assert labctl.leftovers() == []


@pytest.mark.vm
def test_what_is_said_of_a_lab_is_so(labctl: Labctl, solo: str) -> None:
    labctl("up", solo)
    directory = labctl.directories["state"] / "labctl/labs/solo"
    sockets = json.loads((directory / "lab.json").read_text())["sockets"]

    def virsh(*words: str) -> None:
        subprocess.run(["virsh", "-q", "-c", f"qemu+unix:///system?socket={sockets}/libvirt-sock", *words], check=True,
                       capture_output=True, timeout=60)

    assert labctl("ssh", "web", "hostname", XDG_RUNTIME_DIR="/nonexistent").out == "web\n", "as after a logout"
    virsh("suspend", "solo.web")
    said = labctl("up", solo, code=2).err
    assert "is up, but it does not serve: 'web' did not pass the gate 'booting': the machine is paused" in said
    assert "labctl reset solo" in said
    virsh("resume", "solo.web")
    labctl("up", solo)

    (directory / "lab.json").rename(directory / "lost")
    assert labctl.json("list") == []
    assert "the room of the lab 'solo'" in labctl("gc", "--dry-run").err
    assert directory in private_room.there_are().values()
    shutil.rmtree(directory)
    labctl("gc")
    assert labctl.leftovers() == []
