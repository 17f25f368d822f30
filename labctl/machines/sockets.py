"""The directory of a lab's sockets.

It is apart from the lab's other files because a socket's path has room for 107 bytes only (unix(7)). It is not in
XDG_RUNTIME_DIR, which disappears with the user's last login, and does not depend on the environment, so that every
command finds it. A lab's room holds a lock on it, so that programs that clean up /tmp leave it alone (tmpfiles.d(5)).
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
"""A file with the path of the lab's directory, which tells whose sockets these are."""


def place(instance: UUID) -> Path:
    """The directory for the sockets of a lab's instance."""
    return _root() / instance.hex[:12]


def make(directory: Path, lab: Path) -> None:
    """Make the directory for the sockets of the lab in `lab` unless it exists. Raises LabError if it is not ours."""
    for each in (directory.parent, directory):
        each.mkdir(exist_ok=True, mode=0o700)
        status = each.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise LabError(f"'{each}' is somebody else's, and labctl needs it for sockets.",
                           hint="Its owner or root has to remove it.")
        if status.st_mode & 0o077:
            raise LabError(f"The directory '{each}' is open to others.", hint=f"'chmod 700 {each}' closes it.")
    (directory / _LAB).write_text(str(lab))


def remove(directory: Path, lab: Path) -> None:
    """Remove the directory if `make` made it for the lab in `lab`."""
    if whose(directory) == lab:
        shutil.rmtree(directory, ignore_errors=True)


def whose(directory: Path) -> Path | None:
    """The directory of the lab whose sockets are there; None if it is not a directory for sockets."""
    try:
        return Path((directory / _LAB).read_text()) if directory.parent == _root() else None
    except OSError:
        return None


def directories() -> Iterator[Path]:
    """All directories for sockets of this user."""
    return _root().glob("[0-9a-f]*")


def serial(directory: Path, address: IPv4Address) -> Path:
    """The socket of the second serial port of the node with this first address."""
    return directory / f"{address}.serial"


def _root() -> Path:
    return _TEMPORARY / f"labctl-{os.getuid()}"
