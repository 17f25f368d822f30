"""labctl.machines.private_room and labctl.base.namespace: a room without machines, and what rights they would have."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from labctl.base import namespace, paths
from labctl.base.errors import LabError
from labctl.base.proc import Process
from labctl.base.process import CommandError
from labctl.language import catalog
from labctl.machines import private_room, sockets
from labctl.machines.private_room import PrivateRoom
from labctl.plan import guests, plan

# It lives on, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess [0-9]+ is still running:ResourceWarning")

INSTANCE = uuid4()
_SEES = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).close()
        print("yes")
    except OSError as error:
        print(error.strerror)
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory with a short path: sockets go there."""
    directory = Path(tempfile.mkdtemp(prefix="labctl-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def room(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateRoom]:
    """A room of a lab 'base' that is not open yet."""
    monkeypatch.setattr(sockets, "_TEMPORARY", base)
    made = room_of_base()
    yield made
    made.close()


def room_of_base() -> PrivateRoom:
    """A room of the lab 'base', where the environment has it now."""
    return PrivateRoom(INSTANCE, paths.lab("base"), sockets.place(INSTANCE), None)


def opened(room: PrivateRoom) -> int:
    """Open it; returns the process to look at it through."""
    paths.lab("base").mkdir(parents=True, mode=0o700)
    room.open(plan.make(catalog.load(catalog.find("base")), "base", guests.load("debian-12")), lambda _: None)
    assert room.process
    return room.process.pid


def sees(starter: int, *files: Path) -> list[str]:
    """What a machine in the room finds at paths."""
    command = ["nsenter", "-t", str(starter), "-U", "--preserve-credentials", "-m", *namespace.as_machine(
        [sys.executable, "-c", _SEES, *files])]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_who_machines_are() -> None:
    said = namespace.run(namespace.as_machine(["sh", "-c", "id -u; grep -E '^(CapEff|CapPrm)' /proc/self/status"]))
    user, *capabilities = said.splitlines()
    if os.getuid() == 0:
        assert int(user) == namespace.machine_user() != 0
        assert {line.split()[1] for line in capabilities} == {"0000000000000000"}
    else:
        assert user == "0", "the user is root in a namespace of theirs, and themselves outside"


def test_what_a_program_says_and_how_it_ends() -> None:
    assert namespace.run(["sh", "-c", "echo yes; id -u"]) == "yes\n0\n"
    with pytest.raises(CommandError, match=r"^the last$"):
        namespace.run(["sh", "-c", "echo the first; echo the last; exit 3"])
    assert namespace.attempt(["sh", "-c", "echo yes; sleep 60"], 1) == (None, "yes\n")


def test_nothing_runs_where_ids_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(pid: int, _: object) -> None:
        pids.append(pid)
        raise LabError("No.")

    pids: list[int] = []
    monkeypatch.setattr(namespace, "_give", refuse)
    with pytest.raises(LabError, match="No"):
        namespace.run(["touch", tmp_path / "ran"])
    assert not (tmp_path / "ran").exists()
    assert not Path(f"/proc/{pids[0]}").exists()


def test_machines_reach_the_labs_files_and_nothing_else_of_roots(
    room: PrivateRoom, base: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in root's home, which nobody else may enter."""
    home = base / "home"
    home.mkdir(mode=0o700)
    for name in ("STATE", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
    room = room_of_base()
    (home / "letter").write_text("private")
    starter = opened(room)
    ours = [paths.lab("base") / "room", paths.images()]
    keys = paths.lab("base") / "keys"
    keys.mkdir(mode=0o700)
    root = os.getuid() == 0
    assert sees(starter, *ours, keys, home / "letter") == [
        "yes", "yes", "Permission denied" if root else "yes", "No such file or directory" if root else "yes"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes a home there")
def test_a_home_below_a_directory_that_the_room_replaces(room: PrivateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(tempfile.mkdtemp(prefix="labctl-", dir="/var/lib"))
    try:
        monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
        room = room_of_base()
        assert sees(opened(room), paths.lab("base") / "room", Path("/var/lib/dpkg")) == ["yes", "yes"]
    finally:
        room.close()
        shutil.rmtree(home)


def test_a_room_that_was_not_let_in_leaves_nothing(room: PrivateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is known before it has a room."""
    def refuse(_: int, __: object) -> None:
        assert room.is_open()
        raise LabError("No.")

    monkeypatch.setattr(namespace, "_give", refuse)
    with pytest.raises(LabError, match="No"):
        opened(room)
    assert not room.is_open()


def test_a_room_is_found_by_its_labs_id_and_by_its_labs_directory(room: PrivateRoom) -> None:
    """Whoever has lost its number, or its record."""
    known: list[Process] = []
    paths.lab("base").mkdir(parents=True, mode=0o700)
    room.open(plan.make(catalog.load(catalog.find("base")), "base", guests.load("debian-12")), known.append)
    assert known == [room_of_base().process], "and it was known before it made anything"
    assert private_room.there_are()[INSTANCE] == paths.lab("base")
    private_room.end(uuid4())
    private_room.end_in(paths.lab("bas"))
    assert room.is_open()
    private_room.end_in(paths.lab("base"))
    assert not room.is_open()
    assert INSTANCE not in private_room.there_are()
