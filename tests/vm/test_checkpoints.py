"""What was saved comes back: the warm start, reset, and the user's own checkpoints."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import planned
from machines import PATIENCE, Labctl

from labctl.base import paths
from labctl.base.wait import Deadline, until
from labctl.labs.ssh import Ssh
from labctl.language.services.heartbeat import DEADTIME

KEEPALIVED = "lvs-dr-keepalived"
SAYS_TRANSITION = r"Entering (MASTER|BACKUP|FAULT) STATE"

WRECKS = {
    "lvs-m": "ip route flush table main; ipvsadm -C; rm -rf /etc/keepalived; systemctl stop keepalived",
    "lvs-s": "echo c >/proc/sysrq-trigger",
    "rs1": "rm -rf /etc /var/www --one-file-system",
    "rs2": "echo o >/proc/sysrq-trigger",
}
"""What students do: wrong routes and no configuration, a kernel panic, no system at all, a machine that is off."""


@pytest.fixture
def labctl(labctl: Labctl) -> Labctl:
    """One that saves what it starts."""
    del labctl.environment["LABCTL_ONCE"]
    return labctl


SECONDS_OFF = 1
"""A node whose clock is not put forward is off by as long as it was away: some seconds at the least."""


def seconds_off(labctl: Labctl, node: str) -> float:
    """How far a node's clock is from the physical machine's, at the least: what it takes to ask is in favour of it."""
    lab, _, name = node.partition("/")
    ssh = Ssh(Path(labctl("ssh-config", lab).out.strip()), Path)
    earliest, latest = float("-inf"), float("inf")
    for _ in range(3):
        asked = time.time()
        said = float(ssh.do(name, "date +%s.%N", 6 * PATIENCE, "No time"))
        earliest, latest = max(earliest, said - time.time()), min(latest, said - asked)
    return max(earliest, -latest)


def logged_in(labctl: Labctl) -> list[str]:
    """The shared connections to the nodes of the only lab, called after their addresses."""
    sockets, = re.findall(r'ControlPath "(.*)/%h"', Path(labctl("ssh-config").out.strip()).read_text())
    return [path.name for path in Path(sockets).iterdir() if re.fullmatch(r"[\d.]+", path.name)]


def states(labctl: Labctl, lab: str) -> dict[str, str]:
    """Whether each node runs."""
    return {node["node"]: node["state"] for node in labctl.json("status", lab)["nodes"]}


def transitions(labctl: Labctl) -> list[str]:
    """Each change of state that the directors have seen since they booted."""
    return [line for node in ("lvs-m", "lvs-s") for line in
            labctl("exec", f"{KEEPALIVED}/{node}", "journalctl", "-b", "-u", "keepalived").out.splitlines()
            if re.search(SAYS_TRANSITION, line)]


def identity(labctl: Labctl, node: str) -> str:
    """What a machine is known by, and that it has not booted since."""
    return labctl("exec", node, "cat", "/etc/machine-id", "/proc/sys/kernel/random/boot_id").out


@pytest.mark.vm
def test_reset_after_everything_went_wrong(shared: Labctl) -> None:
    shared("reset", KEEPALIVED)  # Other tests may have left their marks.
    nodes = [f"{KEEPALIVED}/{node}" for node in WRECKS]
    before = [identity(shared, node) for node in nodes], transitions(shared)
    assert before[1]
    for node, wreck in WRECKS.items():
        shared("exec", f"{KEEPALIVED}/{node}", "sh", "-c", f"nohup sh -c '{wreck}' >/dev/null 2>&1 &", code=None)
    assert until(lambda: states(shared, KEEPALIVED)["rs2"] != "running", Deadline(6 * PATIENCE))
    said = shared("reset", KEEPALIVED).err
    assert "serves as it did when it was new" in said
    assert max(seconds_off(shared, node) for node in nodes) < SECONDS_OFF
    failover, = [frontend.failover for frontend in planned(KEEPALIVED).frontends()]
    assert failover
    time.sleep(failover.crash_seconds + 1)  # A backup that had not heard of the MASTER would have its place by then.
    assert ([identity(shared, node) for node in nodes], transitions(shared)) == before
    shared("test", KEEPALIVED, "-k", "arp or spread or packet_path or names_resolve or own_page")


@pytest.mark.vm
def test_one_node_is_reset_where_that_is_sound(shared: Labctl) -> None:
    shared("exec", "lvs-dr/rs1", "sh", "-c", "ip address flush dev lo; systemctl stop apache2")
    shared("reset", "lvs-dr/rs1")
    shared("test", "lvs-dr", "-k", "spread or arp")
    refused = shared("reset", f"{KEEPALIVED}/lvs-m", code=2).err
    assert "'lvs-m' cannot be reset alone: it shares 10.10.10.100 with others" in refused


@pytest.mark.vm
@pytest.mark.parametrize("lab", ["nginx-heartbeat"], indirect=True, scope="session")
def test_heartbeat_takes_a_reset_for_no_silence(lab: str, labs: Labctl) -> None:
    def noticed() -> list[str]:
        # Not by unit: what its scripts log may be read when they are gone, and is nobody's then.
        return [line for node in ("C7B1", "C7B2") for line in
                labs("exec", f"{lab}/{node}", "journalctl", "-b", "-o", "cat").out.splitlines()
                if re.search(r"\bdead\b|late heartbeat|takeover|acqui|standby|releas", line, re.IGNORECASE)]

    labs("reset", lab)
    before = noticed()
    assert any("acquisition complete" in line for line in before)
    labs("reset", lab)
    time.sleep(2 * DEADTIME)
    assert noticed() == before


@pytest.mark.vm
def test_the_next_start_is_warm_unless_something_is_different(labctl: Labctl, tiny: str) -> None:
    labctl("up", tiny)
    first = identity(labctl, "web")
    assert seconds_off(labctl, "tiny/web") < SECONDS_OFF
    config = Path(labctl("ssh-config").out.strip())
    keys = (config.parent / "known_hosts").read_text()
    assert logged_in(labctl)
    labctl("down")
    assert "Starting from what was saved" in labctl("up", tiny).err
    assert logged_in(labctl) == [], "a restored node answers without a login, which would take it a second"
    assert seconds_off(labctl, "tiny/web") < SECONDS_OFF
    assert identity(labctl, "web") == first
    assert (config.parent / "known_hosts").read_text() == keys
    assert "mounted filesystem" in labctl("logs", "web").out, "it was said before the lab was saved"
    labctl("test", "tiny")
    labctl("down")

    home, = (Path(labctl.environment["XDG_CACHE_HOME"]) / "labctl/warm").iterdir()
    description = home / "checkpoint.json"
    text = description.read_text()
    other = json.loads(text)
    other["key"]["QEMU or libvirt"] = "some other"
    description.write_text(json.dumps(other))
    assert "The lab boots: What is saved of the lab 'tiny' cannot go on: it was saved with another QEMU or libvirt" \
        in labctl("up", tiny).err
    assert identity(labctl, "web") != first
    labctl("down")

    with (home / "web.memory").open("r+b") as memory:
        memory.seek(-1_000_000, os.SEEK_END)
        memory.write(b"damaged")
    said = labctl("up", tiny).err
    assert "The lab boots: The memory of 'web' is not what was saved." in said
    labctl("test", "tiny", "-k", "own_page")
    labctl("down")

    layer, = (home / "disks").glob(".web.*.qcow2")
    with layer.open("r+b") as disk:
        disk.seek(-10, os.SEEK_END)
        disk.write(b"damaged")
    assert f"The lab boots: The disk '{layer.name}' is not what was saved." in labctl("up", tiny).err
    second = identity(labctl, "web")
    labctl("down")
    assert "Starting" not in labctl("up", tiny, "--cold").err
    assert identity(labctl, "web") != second
    assert "nothing to remove" in labctl("gc", "--older-than", "0").err, "the lab that is up needs it"
    labctl("down")
    assert "Removed: the configured checkpoint of 'tiny'." in labctl("gc", "--older-than", "0").err
    assert labctl.leftovers() == []


def killed_while_saving(labctl: Labctl, tiny: str, data: dict[str, str]) -> None:
    """Once its machines are held still the lab tiny is not ready; `up` lets them go on, and they are as they were."""
    before = identity(labctl, "web")
    held = Path(labctl.environment["XDG_STATE_HOME"]) / "labctl/labs/tiny/held"
    process = labctl.start("checkpoint", "save", "two", **data)
    until(lambda: any(held.glob("web.*")) or process.poll() is not None, Deadline(60 * PATIENCE), interval=0.01)
    process.kill()
    process.communicate()
    assert labctl.json("status")["state"] == "not ready"
    assert "it goes on" in labctl("up", tiny, **data).err
    assert labctl.json("status")["state"] == "up"
    assert identity(labctl, "web") == before
    assert labctl("exec", "client", "curl", "-s", "http://web/", **data).out == "web\n"
    assert "no checkpoint 'two'" in labctl("checkpoint", "restore", "two", code=2, **data).err


def gives_nothing_away(labctl: Labctl, data: dict[str, str]) -> None:
    """Neither the status nor a test of the lab tiny says that the step web/page is undone."""
    said = labctl("status", **data).out
    assert "undone" not in said
    assert "is not shown" in said
    tested = labctl("test", "-k", "own_page", code=1, **data)
    assert "looks wrong" not in tested.out + tested.err


def broken_on_purpose(labctl: Labctl, tiny: str, data: dict[str, str]) -> None:
    """The lab tiny is saved broken, to come back to or for others to mend, and goes back to its checkpoint 'one'."""
    labctl("up", tiny, "--from", "one", **data)
    labctl("exec", "web", "systemctl", "stop", "apache2", **data)
    assert "It is broken, and will be when it is back: 'web'" in labctl("checkpoint", "save", "broken", **data).err
    labctl("undo", "web/page", **data)
    assert "It is broken" in labctl("checkpoint", "save", "homework", "--exercise", **data).err
    labctl("checkpoint", "restore", "one", **data)
    assert labctl("exec", "client", "curl", "-s", "http://web/", **data).out == "web\n"
    assert "It was broken when it was saved: 'web'" in labctl("checkpoint", "restore", "broken", **data).err
    assert labctl("exec", "web", "systemctl", "is-active", "apache2", code=3, **data).out == "inactive\n"
    assert max(seconds_off(labctl, f"tiny/{node}") for node in ("web", "client")) < SECONDS_OFF
    labctl("down", **data)
    assert "is as it was saved, broken: 'web'" in labctl("up", tiny, "--from", "broken", **data).err
    assert {row["checkpoint"]: row["state"] for row in json.loads(
        labctl("checkpoint", "list", "-o", "json", **data).out)} == {
            "one": "serves", "broken": "broken", "homework": "exercise"}
    # An exercise does not give itself away, however the lab comes to it.
    assert "The lab is an exercise" in labctl("checkpoint", "restore", "homework", **data).err
    gives_nothing_away(labctl, data)
    labctl("down", **data)
    assert "for you to find" in labctl("up", tiny, "--from", "homework", **data).err
    assert json.loads(labctl("status", "-o", "json", **data).out)["exercise"]
    labctl("down", **data)
    for name in ("broken", "homework"):
        labctl("checkpoint", "rm", name, **data)


@pytest.mark.vm
def test_checkpoints_of_the_users_own(labctl: Labctl, tiny: str, tmp_path: Path) -> None:
    data = {"XDG_DATA_HOME": str(tmp_path / "data")}
    images = tmp_path / "data/labctl"
    images.mkdir(parents=True)
    (images / "images").symlink_to(paths.images())
    labctl("up", tiny, "--once", **data)
    assert "has no configured checkpoint" in labctl("reset", code=2, **data).err
    labctl("exec", "web", "sh", "-c", "echo one >/root/one; sync", **data)
    labctl("checkpoint", "save", "one", "--note", "with a file", **data)
    assert "has a checkpoint 'one' already" in labctl("checkpoint", "save", "one", code=2, **data).err
    assert "cannot be the name of a checkpoint" in labctl("checkpoint", "save", "../one", code=2, **data).err
    labctl("exec", "web", "sh", "-c", "rm /root/one; echo two >/root/two; systemctl stop apache2", **data)
    # What the file says of the machine, and of the program to start, is not looked at.
    with (images / "checkpoints/tiny/one/web.memory").open("r+b") as memory:
        memory.seek(92)
        memory.write(b"<domain type='qemu'><devices><emulator>/bin/false</emulator></devices></domain>\0")
    labctl("checkpoint", "restore", "one", **data)
    assert labctl("exec", "web", "ls", "/root", **data).out == "one\n"
    assert labctl("exec", "client", "curl", "-s", "http://web/", **data).out == "web\n"
    killed_while_saving(labctl, tiny, data)
    labctl("down", **data)
    row, = json.loads(labctl("checkpoint", "list", "-o", "json", **data).out)
    assert (row["lab"], row["checkpoint"], row["note"]) == ("tiny", "one", "with a file")
    assert row["size"] > 50_000_000
    assert "no checkpoint 'on'. Did you mean 'one'" in re.sub(
        r"\s+", " ", labctl("up", tiny, "--from", "on", code=2, **data).err)
    broken_on_purpose(labctl, tiny, data)
    # Machines that know other keys than those that are up.
    labctl("up", tiny, "--once", **data)
    labctl("checkpoint", "restore", "one", **data)
    assert labctl("exec", "web", "ls", "/root", **data).out == "one\n"
    labctl("down", **data)
    labctl("up", tiny, "--from", "one", **data)
    assert labctl("exec", "web", "cat", "/root/one", **data).out == "one\n"
    # What it is based on may go while it is up: its files are its own.
    labctl("checkpoint", "rm", "one", **data)
    assert labctl("exec", "web", "sh", "-c", "echo 3 >/proc/sys/vm/drop_caches; cat /root/one", **data).out == "one\n"
    labctl("down", **data)
    assert "There are no checkpoints" in labctl("checkpoint", "list", **data).err
    assert labctl.leftovers() == []


@pytest.mark.vm
def test_the_disk_is_full_while_saving(labctl: Labctl, tiny: str) -> None:
    """The lab goes on, and nothing is left of the try."""
    warm = Path(labctl.environment["XDG_CACHE_HOME"]) / "labctl/warm"
    # A file system of its own, too small for the memory; that it is so is found out too late.
    command = ("import labctl.machines.memory.checkpoint as c, labctl.__main__ as m; "
               "c.free_disk = lambda d: (10 ** 6, d); m.main()")
    user = [] if os.getuid() == 0 else ["--map-root-user"]
    result = subprocess.run(
        ["unshare", "-m", *user, "sh", "-c", 'mkdir -p $0 && mount -t tmpfs -o size=40m tmpfs $0 && "$@" && '
         'find $0 -type f', str(warm), sys.executable, "-c", command, "up", tiny],
        env={**os.environ, **labctl.environment}, capture_output=True, text=True, timeout=120 * PATIENCE, check=False)
    assert result.returncode == 0, result.stderr
    assert "The next start will not be quicker" in result.stderr
    assert result.stdout == ""
    assert labctl("exec", "client", "curl", "-s", "http://web/").out == "web\n"
    labctl("test", "tiny")
    assert "has no configured checkpoint" in labctl("reset", code=2).err
    labctl("down")
    assert labctl.leftovers() == []
