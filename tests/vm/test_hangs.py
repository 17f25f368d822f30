"""Whatever hangs is named in time, and goes with its lab."""

import json
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machines import Labctl

_SECONDS = 40
"""For any command; it takes a few seconds to start on a machine that is busy."""


def qemu(labctl: Labctl, node: str) -> int:
    """The process of a node of ours: others may have a lab of the same name."""
    return next(pid for pid, words in processes()
                if f"guest=tiny.{node}," in " ".join(words) and str(labctl.directories["state"]) in " ".join(words))


def sockets(labctl: Labctl) -> Path:
    """Where the lab's sockets are, as its record says."""
    record = json.loads((labctl.directories["state"] / "labctl/labs/tiny/lab.json").read_text())
    return Path(record["sockets"])


def libvirtd(labctl: Labctl) -> int:
    """The process behind libvirt's socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(sockets(labctl) / "libvirt-sock"))
        return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


def ssh_masters(labctl: Labctl) -> list[int]:
    """The processes that keep shared connections."""
    return [pid for pid, words in processes()
            if words[0].startswith(f"ssh: {sockets(labctl)}") and words[0].endswith("[mux]")]


def processes() -> Iterator[tuple[int, list[str]]]:
    """All that run, with their words."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        yield int(directory.name), words


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that hang."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def says(labctl: Labctl, *words: str) -> str:
    """What a command says that could not run, in time."""
    return labctl(*words, code=2, timeout=_SECONDS).err


@pytest.mark.vm
def test_what_hangs_is_named_in_time(labctl: Labctl, tiny: str) -> None:
    labctl("up", tiny, use="start")
    with stopped(qemu(labctl, "client")):
        rows = {row["node"]: row["state"] for row in labctl.json("status")["nodes"]}
        assert rows == {"web": "running", "client": "hangs"}
        for words in (["reboot", "client"], ["test"], ["checkpoint", "save", "x"]):
            assert "The node 'client' hangs: its QEMU does not answer libvirt." in says(labctl, *words)
    assert labctl.json("status")["nodes"][1]["state"] == "running"

    labctl("exec", "*", "true")
    masters = ssh_masters(labctl)
    assert len(masters) == 2
    for pid in masters:
        os.kill(pid, signal.SIGSTOP)
    assert labctl("exec", "*", "echo", "well", timeout=_SECONDS).out == "web: well\nclient: well\n"
    assert not set(masters) & set(ssh_masters(labctl))

    daemon = libvirtd(labctl)
    with stopped(daemon):
        for words in (["status"], ["reboot", "web"], ["checkpoint", "save", "x"], ["test"]):
            assert f"the libvirtd of the lab 'tiny' (process {daemon}) hangs" in says(labctl, *words)
        waiting = labctl.start("status")
        time.sleep(4)  # So that it has asked, and waits for ten seconds.
        asked = time.monotonic()
        waiting.send_signal(signal.SIGINT)
        _, err = waiting.communicate(timeout=_SECONDS)
        assert (waiting.returncode, err) == (130, "labctl: interrupted.\n")
        assert time.monotonic() - asked < 8

    for pid in (qemu(labctl, "web"), libvirtd(labctl), *ssh_masters(labctl)):
        os.kill(pid, signal.SIGSTOP)
    labctl("down", timeout=_SECONDS)
    assert labctl.leftovers() == []
