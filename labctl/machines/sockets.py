"""The directory of a lab's sockets.

It is apart from the lab's other files, since a socket's path has room for 107 bytes only (unix(7)), and neither in
XDG_RUNTIME_DIR, which goes with the user's last login, nor anywhere else that the environment says: it stays where it
is from one command to the next. A lab's room holds a lock on it, so that whoever clears /tmp of what is old leaves it.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

from labctl.base.errors import LabError

_TEMPORARY = Path("/tmp")
_LAB = "lab"
"""A file with the path of the lab's directory: whose sockets they are."""


def place(instance: UUID) -> Path:
    """Where an instance of a lab has its sockets."""
    return _root() / instance.hex[:12]


def make(directory: Path, lab: Path) -> None:
    """Make the directory for sockets of the lab in `lab`, if it is not there. Raises LabError if it is not ours."""
    for each in (directory.parent, directory):
        each.mkdir(exist_ok=True, mode=0o700)
        status = each.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise LabError(f"'{each}' is somebody else's, and labctl needs it for sockets.",
                           hint="Whoever has made it, or root, has to remove it.")
        if status.st_mode & 0o077:
            raise LabError(f"The directory '{each}' is open to others.", hint=f"'chmod 700 {each}' closes it.")
    (directory / _LAB).write_text(str(lab))


def remove(directory: Path, lab: Path) -> None:
    """Remove it, if it is what `make` has made for the lab in `lab`."""
    if whose(directory) == lab:
        shutil.rmtree(directory, ignore_errors=True)


def whose(directory: Path) -> Path | None:
    """The directory of the lab that has its sockets there; None for what is no directory for sockets."""
    try:
        return Path((directory / _LAB).read_text()) if directory.parent == _root() else None
    except OSError:
        return None


def directories() -> Iterator[Path]:
    """All of this user's."""
    return _root().glob("[0-9a-f]*")


def serial(directory: Path, address: IPv4Address) -> Path:
    """The socket of the second serial port of the node whose first address this is."""
    return directory / f"{address}.serial"


def _root() -> Path:
    return _TEMPORARY / f"labctl-{os.getuid()}"
