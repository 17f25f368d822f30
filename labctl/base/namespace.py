"""User namespaces: programs that are root inside, with user and group ids that mean nothing outside."""

import os
import pwd
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from labctl.base import process
from labctl.base.errors import LabError
from labctl.base.process import CommandError, Running

START = Path(__file__).with_name("user-namespace.sh")
"""The script that starts every program in a namespace."""
_STRANGERS = (0x7000_0000, 65_533)
"""User ids that own nothing, for the machines of root's labs: the first that exists in our own user namespace is used.
The first is in a range that no distribution assigns (systemd's page 'Users, Groups, UIDs and GIDs'); the second is for
containers, which often have 65,536 ids only."""
_SUBORDINATE_END = 600_100_000
"""useradd assigns subordinate ids below this one (login.defs(5): SUB_UID_MAX)."""
_KVM = Path("/dev/kvm")


class Range(NamedTuple):
    """Consecutive ids: the first one inside the namespace, the first one outside, and how many there are."""

    inside: int
    outside: int
    length: int


class Ids(NamedTuple):
    """The users and groups of a namespace."""

    users: list[Range]
    groups: list[Range]


def ids() -> Ids:
    """The ids of a new namespace, in which we are root.

    An ordinary user's namespace also has their subordinate ids; root's has the user that machines run as.
    Raises LabError if there are none.
    """
    if os.getuid() == 0:
        stranger = Range(machine_user(), machine_user(), 1)
        return Ids([Range(0, 0, 1), stranger], [Range(0, os.getgid(), 1), stranger])
    return Ids(*([Range(0, own, 1), *subordinate(file)]
                 for own, file in ((os.getuid(), "/etc/subuid"), (os.getgid(), "/etc/subgid"))))


def subordinate(file: str) -> list[Range]:
    """This user's ranges in a file such as /etc/subuid; inside the namespace they follow each other from 1 on.

    Raises LabError if there are none.
    """
    found = _subordinate(file)
    if not found:
        raise LabError(f"The file '{file}' has no subordinate ids for '{user_name()}'.", hint=more_ids(file))
    return found


def more_ids(file: str) -> str:
    """The command that gives this user subordinate ids that nobody else has."""
    first = max([100_000, *(start + count for _, start, count in _entries(file) if start < _SUBORDINATE_END)])
    option = "--add-subuids" if file.endswith("uid") else "--add-subgids"
    return f"sudo usermod {option} {first}-{first + 65_535} {user_name()}"


def machine_user() -> int:
    """The id, inside the namespace, of the user that machines run as; root's namespaces have the same id outside.

    Raises LabError if this container has no such id.
    """
    if os.getuid():
        return 0
    for stranger in _STRANGERS:
        if all(_has(Path(f"/proc/self/{kind}_map"), stranger) for kind in ("uid", "gid")):
            return stranger
    raise LabError("In this container root has no ids for a lab's machines to run as.",
                   hint=f"It has to have the user and the group {_STRANGERS[1]}.")


def kvm_group() -> int | None:
    """The id, inside the namespace, of /dev/kvm's group if it is among an ordinary user's subordinate ids, else None.

    A user's other groups do not count, since libvirt drops them when it starts a machine. Root's machines need no
    group: they see a /dev/kvm that they own.
    """
    if os.getuid() == 0 or not _KVM.exists():
        return None
    wanted = _KVM.stat().st_gid
    return next((inside + wanted - outside for inside, outside, count in _subordinate("/etc/subgid")
                 if outside <= wanted < outside + count), None)


def as_machine(argv: Sequence[str | Path]) -> list[str | Path]:
    """The command line that runs `argv`, in a namespace of ours, with the rights of the machines."""
    user, kvm = str(machine_user()), kvm_group()
    return ["setpriv", "--reuid", user, "--regid", user, "--groups", f"{user},{kvm}" if kvm else user, *argv]


def give_to_machines(path: Path) -> None:
    """Let machines write to a file of ours."""
    if os.getuid() == 0:
        os.chown(path, machine_user(), machine_user())


def take_from_machines(path: Path) -> None:
    """Make a file read-only for machines, since others are going to read it."""
    if os.getuid() == 0:
        os.chown(path, 0, os.getgid())
        path.chmod(0o444)


def spawn(argv: Sequence[str | Path], output: Path, known: Callable[[int], None] = lambda _: None) -> Running:
    """Start a program as root of a new namespace, with its output in a file; it outlives labctl.

    `known` is called with its process id before the program begins. Raises LabError if there are no ids for it.
    """
    wanted = ids()

    def let_in(pid: int) -> None:
        known(pid)
        _give(pid, wanted)

    outside = machine_user() if os.getuid() == 0 else 0
    return process.spawn([START, str(outside), *argv], output, let_in)


def run(argv: Sequence[str | Path]) -> str:
    """Run a program as root of a new namespace and return its output.

    Raises CommandError if it fails, and LabError if there are no ids for it.
    """
    status, said = attempt(argv, None)
    if status:
        lines = said.strip().splitlines()
        raise CommandError(lines[-1] if lines else f"It ended with status {status}.")
    return said


def attempt(argv: Sequence[str | Path], timeout: float | None) -> tuple[int | None, str]:
    """Run a program as root of a new namespace and return its status and its output.

    The status is negative for a signal, and None if the program was killed after `timeout` seconds.
    Raises LabError if there are no ids for it.
    """
    with tempfile.TemporaryDirectory(prefix="labctl-") as directory:
        output = Path(directory) / "output"
        status = process.wait(spawn(argv, output), timeout)
        return status, output.read_text(errors="replace")


def user_name() -> str:
    """Our user name; the user id if it has no name."""
    with suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return str(os.getuid())


def _give(pid: int, wanted: Ids) -> None:
    for kind, ranges in (("gid", wanted.groups), ("uid", wanted.users)):
        if os.getuid() == 0:
            Path(f"/proc/{pid}/{kind}_map").write_text("".join(f"{' '.join(map(str, each))}\n" for each in ranges))
        else:
            process.run([f"new{kind}map", str(pid), *(str(number) for each in ranges for number in each)])


def _subordinate(file: str) -> list[Range]:
    found: list[Range] = []
    for user, first, count in _entries(file):
        if user in (user_name(), str(os.getuid())):
            found.append(Range(1 + sum(each.length for each in found), first, count))
    return found


def _entries(file: str) -> list[tuple[str, int, int]]:
    """The well-formed lines of a file such as /etc/subuid (subuid(5))."""
    entries = []
    with suppress(OSError):
        for line in Path(file).read_text(errors="replace").splitlines():
            with suppress(ValueError):
                user, first, count = line.split(":")
                entries.append((user, int(first), int(count)))
    return entries


def _has(id_map: Path, number: int) -> bool:
    rows = [list(map(int, line.split())) for line in id_map.read_text().splitlines()]
    return any(inside <= number < inside + count for inside, _, count in rows)
