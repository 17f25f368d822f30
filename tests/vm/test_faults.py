"""Whatever goes wrong on the way up: a sentence, the right exit code, and nothing left."""

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from machines import PATIENCE, Labctl

from labctl.base.wait import Deadline, until

NO_ROOM = "The lab's private room could not be opened: "
# For each stage a program that fails, and what is said then.
STAGES = {
    "keys": ("ssh-keygen", "The command 'ssh-keygen "),
    "room": ("unshare", NO_ROOM),
    "libvirt": ("libvirtd", NO_ROOM),
    "bridges": ("ip", NO_ROOM),
    "disks": ("qemu-img", "The command 'qemu-img create "),
    "machines": ("qemu-system-x86_64", "The machine could not be started: "),
}


@pytest.mark.vm
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_fails(stage: str, labctl: Labctl, solo: str) -> None:
    name, said = STAGES[stage]
    # Where also those who own nothing can reach it, as what runs in a room does.
    with tempfile.TemporaryDirectory(prefix="labctl-") as directory:
        program = Path(directory, name)
        program.write_text("#!/bin/sh\necho 'broken for the test' >&2\nexit 1\n")
        for path in (program, program.parent):
            path.chmod(0o755)
        result = labctl("up", solo, "--accel", "tcg", code=2, PATH=f"{directory}:{os.environ['PATH']}")
    assert "Traceback" not in result.err
    assert f"labctl: {said}" in result.err
    assert "broken for the test" in result.err.partition("labctl: ")[2]
    assert labctl.leftovers() == []


@pytest.mark.vm
def test_a_guest_that_never_boots(labctl: Labctl, solo: str) -> None:
    result = labctl("up", solo, "--timeout", "4", code=2)
    assert "did not pass the gate 'ssh'" in result.err
    assert "The end of its console:" in result.err
    assert labctl.leftovers() == []


@pytest.mark.vm
@pytest.mark.parametrize("moment", ["at once", "defined", "booting"])
def test_ctrl_c(moment: str, labctl: Labctl, solo: str) -> None:
    process = labctl.start("up", solo, "--accel", "tcg")
    assert process.stderr is not None
    if moment == "at once":
        labs = labctl.directories["state"] / "labctl/labs"
        assert until(lambda: labs.exists() and any(labs.iterdir()), Deadline(PATIENCE + 10), 0.01)
    else:
        for line in process.stderr:
            if moment in line:
                break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30 * PATIENCE)
    assert process.returncode == 130, err
    assert labctl.leftovers() == []


@pytest.mark.vm
def test_killed_on_the_way_up(labctl: Labctl, solo: str) -> None:
    """Nothing can be cleaned up then; the next up does it."""
    process = labctl.start("up", solo)
    assert process.stderr is not None
    for line in process.stderr:
        if "booting" in line:
            break
    process.kill()
    process.communicate()
    assert labctl.json("list")[0]["state"] == "not ready"
    assert "making it anew" in labctl("up", solo).err
    labctl("down")
    assert labctl.leftovers() == []


@pytest.mark.vm
def test_the_room_dies(labctl: Labctl, solo: str) -> None:
    """As at a restart of the physical machine."""
    labctl("up", solo)
    record = json.loads((labctl.directories["state"] / "labctl/labs/solo/lab.json").read_text())
    os.kill(record["room"]["pid"], signal.SIGKILL)
    assert until(lambda: labctl.json("status")["state"] == "gone", Deadline(PATIENCE + 10))
    assert "is gone" in labctl("test", code=2).err
    labctl("down")
    assert labctl.leftovers() == []


@pytest.mark.vm
def test_no_image(labctl: Labctl, solo: str) -> None:
    result = labctl("up", solo, "--guest", "centos-7", code=2, XDG_DATA_HOME=str(labctl.directories["state"] / "empty"))
    assert "There is no image of 'centos-7' in the store" in result.err
    assert "image build debian-12" in result.err
    assert labctl.leftovers() == []


@pytest.mark.vm
def test_not_enough_memory(labctl: Labctl, tiny: str, tmp_path: Path) -> None:
    greedy = tmp_path / "greedy.yaml"
    greedy.write_text(Path(tiny).read_text().replace("256", "65536"))
    result = labctl("up", str(greedy), code=2)
    assert "needs 131" in result.err
    assert "MiB of memory" in result.err
    assert labctl.leftovers() == []


@pytest.mark.vm
def test_not_enough_disk(labctl: Labctl, solo: str) -> None:
    """On a file system of its own that is too small for its disk."""
    state = labctl.directories["state"]
    command = labctl.command("up", solo)
    user = [] if os.getuid() == 0 else ["--map-root-user"]
    result = subprocess.run(
        ["unshare", "-m", *user, "sh", "-c", f'mount -t tmpfs -o size=200m tmpfs {state} && exec "$@"', "sh", *command],
        env={**os.environ, **labctl.environment}, capture_output=True, text=True, timeout=60 * PATIENCE, check=False)
    assert result.returncode == 2, result.stderr
    assert "needs 400 MiB of disk" in result.stderr
    assert labctl.leftovers() == []


@pytest.mark.vm
def test_image_build_is_interrupted(labctl: Labctl, tmp_path: Path) -> None:
    data = tmp_path / "data"
    process = labctl.start("image", "build", "debian-12", XDG_DATA_HOME=str(data), XDG_CACHE_HOME=str(data))
    log = data / "labctl/build-debian-12.log"
    assert until(lambda: process.poll() is not None or (log.exists() and "downloading" in log.read_text()),
                 Deadline(120), 0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert [path.name for path in (data / "labctl/images").iterdir()] == [".lock"]
    assert str(data) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


@pytest.mark.vm
def test_mirror_unreachable(labctl: Labctl, tmp_path: Path) -> None:
    data = tmp_path / "data"
    result = labctl("image", "build", "debian-12", "--mirror", "http://127.0.0.1:9/debian", code=2,
                    XDG_DATA_HOME=str(data))
    assert "the mirror 'http://127.0.0.1:9/debian' could not be reached" in result.err
    assert [path.name for path in (data / "labctl/images").iterdir()] == [".lock"]


@pytest.mark.vm
def test_a_memory_that_is_damaged(labctl: Labctl, solo: str, tmp_path: Path) -> None:
    """Nodes boot instead, and the next lab has a memory again."""
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    labctl("up", solo, "--accel", "tcg", **cache)
    labctl("down")
    for memory in (tmp_path / "cache").glob("labctl/boot/*/memory"):
        memory.chmod(0o600)
        with memory.open("r+b") as file:
            file.truncate(memory.stat().st_size // 2)
    result = labctl("up", solo, "--accel", "tcg", "--cold", **cache)
    assert "could not start from memory, and boots" in result.err
    labctl("test", "solo", "-k", "addresses")
    labctl("down")
    assert labctl.leftovers() == []
