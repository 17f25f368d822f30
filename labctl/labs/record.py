"""What labctl remembers of a lab between two commands: a small record and, in a file beside it, the lab's plan.

Listing labs and taking them down needs the record alone; even an unreadable record is enough for taking a lab down.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid4

from pydantic import Field, ValidationError

from labctl.base import machine, namespace, paths
from labctl.base.errors import LabError
from labctl.base.files import write_atomically
from labctl.base.proc import Process
from labctl.base.types import NAME_PATTERN, Model
from labctl.plan.domain import Accel
from labctl.plan.plan import Plan

_RECORD = "lab.json"
_PLAN = "plan.json"


class Unreadable(LabError):
    """A lab has a record that this labctl cannot read."""

    state = "unreadable"
    """The lab's state in lists."""


class OtherVersion(Unreadable):
    """A lab was made by an older or a newer labctl."""

    state = "other version"


class User(Model):
    """The user whose lab it is."""

    uid: int = Field(default_factory=os.getuid)
    name: str = Field(default_factory=namespace.user_name)


class Record(Model):
    """The record of a lab that exists, or is on its way up."""

    version: Literal[1] = 1
    id: UUID = Field(default_factory=uuid4)
    """Drawn at random by each 'up'; everything with this id belongs to this instance, whatever its name."""
    name: str
    hostname: str = Field(default_factory=machine.hostname)
    boot_id: str = Field(default_factory=machine.boot_id)
    """The machine's boot id when the lab was made."""
    user: User = Field(default_factory=User)
    sockets: Path
    """The directory of its sockets."""
    room: Process | None = None
    """The private room's process; None before it is known, and then it is found by the lab's id in its arguments."""
    libvirt_uri: str | None
    """The existing libvirt that the lab lives in; None if it has a private room."""
    accel: Accel
    image: str
    """The digest of the image its disks are based on."""
    ready: bool = False
    """False while the lab is on its way up or back, and from then on if labctl was killed meanwhile."""
    trouble: str = ""
    """Why the lab does not serve, if it was restored from a checkpoint of a broken lab."""
    exercise: bool = False
    """Whether it was restored from an exercise, so that labctl must not tell which steps are undone."""

    @property
    def directory(self) -> Path:
        """The directory of the lab's files."""
        return paths.lab(self.name)

    @property
    def elsewhere(self) -> str:
        """'on HOST' or 'of USER' if the lab cannot be used from here; empty if it can."""
        if self.hostname != machine.hostname() and not self._is_here_under_another_name:
            return f"on {self.hostname}"
        return f"of {self.user.name}" if self.user.uid != os.getuid() else ""

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the machine has not been restarted since the lab was made."""
        return self.boot_id == machine.boot_id()

    @property
    def _is_here_under_another_name(self) -> bool:
        return self.is_of_this_boot and (self.libvirt_uri is not None or (self.room is not None and self.room.runs))

    def must_be_here(self, *, any_host: bool = False) -> None:
        """Raise LabError if the lab is another user's or, unless `any_host`, on another machine."""
        if self.user.uid != os.getuid():
            raise LabError(f"The lab '{self.name}' is the user {self.user.name}'s.",
                           hint=f"Use labctl as '{self.user.name}'.")
        if self.elsewhere and not any_host:
            raise LabError(f"The lab '{self.name}' is on the host '{self.hostname}', and this is "
                           f"'{machine.hostname()}'.",
                           hint=f"Use labctl there. If '{self.hostname}' is no more, 'labctl down --force {self.name}' "
                                "removes what is left here.")

    def save(self) -> None:
        """Write the record, replacing an earlier one."""
        write_atomically(self.directory / _RECORD, self.model_dump_json())


class Remains(Model):
    """The parts of a record that can be read, if this labctl cannot read all of it."""

    id: UUID | None = None
    sockets: Path | None = None
    libvirt_uri: str | None = None
    image: str | None = None


def load(name: str) -> Record:
    """The record of a lab. Raises Unreadable, LabError for an invalid name, FileNotFoundError if there is none."""
    check_name(name)
    text = (paths.lab(name) / _RECORD).read_bytes()
    hint = f"'labctl down {name}' removes the lab."
    try:
        found = Record.model_validate_json(text)
    except ValidationError:
        loose = _loose(text)
        if not loose or loose.get("version") == Record.model_fields["version"].default:
            raise Unreadable(f"The record of the lab '{name}' cannot be read.", hint=hint) from None
        raise OtherVersion(f"The lab '{name}' was made by another version of labctl.", hint=hint) from None
    if found.name != name:
        raise Unreadable(f"The record of the lab '{name}' belongs to another lab, '{found.name}'.", hint=hint)
    return found


def remains(name: str) -> Remains:
    """The readable parts of a lab's record; nothing if the record names another lab."""
    try:
        loose = _loose((paths.lab(name) / _RECORD).read_bytes())
    except OSError:
        return Remains()
    if loose.get("name", name) != name:
        return Remains()
    found = Remains()
    for key in Remains.model_fields:
        try:
            found = Remains.model_validate({**found.model_dump(), key: loose.get(key)})
        except ValidationError:
            continue
    return found


def save_plan(name: str, plan: Plan) -> None:
    """Write the plan of a lab beside its record."""
    write_atomically(paths.lab(name) / _PLAN, plan.model_dump_json(exclude={"digest"}))


def load_plan(name: str) -> Plan:
    """The plan of a lab. Raises Unreadable."""
    try:
        return Plan.model_validate_json((paths.lab(name) / _PLAN).read_bytes())
    except (OSError, ValidationError):
        raise Unreadable(f"The plan of the lab '{name}' cannot be read.",
                         hint=f"'labctl down {name}' removes the lab.") from None


def forget(name: str) -> None:
    """Remove a lab's directory, its record last, so that an interrupted removal can be repeated. Raises OSError."""
    directory = paths.lab(name)
    if not directory.exists():
        return
    for path in directory.iterdir():
        if path.name == _RECORD:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (directory / _RECORD).unlink(missing_ok=True)
    directory.rmdir()


def check_name(name: str) -> None:
    """Raise LabError if `name` cannot be the name of a lab, such as a path."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise LabError(f"'{name}' is not the name of a lab.", hint="'labctl list' shows those that are up.")


def _loose(text: bytes) -> dict[str, object]:
    try:
        loose = json.loads(text)
    except ValueError:
        return {}
    return loose if isinstance(loose, dict) else {}
