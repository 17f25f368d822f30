"""Leftovers of labs: what exists without a record, because labctl was killed or a record was lost.

Everything that a lab has on this machine names the lab's directory: its room in an argument of the room's processes,
its sockets in a file beside them. Only leftovers that name a directory among this user's labs are considered. They are
removed under the lab's lock, so a lab that is just being made is left alone.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from labctl.base import paths
from labctl.base.errors import LabError
from labctl.base.types import NAME_PATTERN
from labctl.labs import record, ssh
from labctl.labs.lab import locked, names
from labctl.machines import private_room, sockets
from labctl.machines.existing_libvirt import ExistingLibvirt

if TYPE_CHECKING:
    from labctl.machines.provider import Provider

_NOBODY = UUID(int=0)


def clear(name: str) -> None:
    """Remove everything on this machine of the lab called `name`, its record last. Raises LabError."""
    directory = paths.lab(name)
    private_room.end_in(directory)
    for found in _sockets_of(directory):
        _remove_sockets(found, directory)
    try:
        record.forget(name)
    except OSError as error:
        raise LabError(f"'{error.filename}' could not be removed: {error.strerror}.") from None


def exist(name: str) -> bool:
    """Whether there is anything on this machine of a lab called `name`."""
    return name in _candidates()


def collect(*, dry: bool) -> list[str]:
    """Remove what no record on this machine knows of, unless `dry`; returns descriptions of it. Raises LabError."""
    found = []
    for name in _candidates():
        with suppress(LabError), locked(name):  # If it is locked, a labctl is at work there.
            found += _collect(name, dry)
    return found


def collect_at(uri: str, *, dry: bool) -> list[str]:
    """Remove the volumes at a libvirt that belong to no lab there, unless `dry`; returns descriptions of them."""
    provider = provider_at(uri, _NOBODY)
    labs = {found.id for found in _records()} | provider.instances().keys()
    lost = [volume for volume, instance in provider.volumes().items() if instance not in labs]
    if not dry:
        provider.remove_volumes(lost)
    return [f"the volume '{volume}' at '{uri}'" for volume in lost]


def strangers(uri: str) -> list[str]:
    """A sentence about each lab at a libvirt that no record here knows of; it may be another user's."""
    known = {found.id for found in _records()}
    return [f"The lab '{name}' at '{uri}' stays: no record here knows of it. If it is yours, "
            f"'labctl down --force {instance} --host {uri}' removes it."
            for instance, name in provider_at(uri, _NOBODY).instances().items() if instance not in known]


def libvirts() -> list[str]:
    """The URIs of existing libvirts that host labs with a record here."""
    return sorted({found.libvirt_uri for found in _records() if found.libvirt_uri})


def name_of(instance: UUID) -> str | None:
    """The name of the lab on this machine with this id, with or without a record."""
    known = next((found.name for found in _records() if found.id == instance), None)
    directory = private_room.there_are().get(instance)
    return known or (directory.name if directory and directory.parent == paths.labs() else None)


def provider_at(uri: str, instance: UUID) -> "Provider":
    """One instance's part of the libvirt at a URI."""
    from labctl.machines.provider import Provider  # noqa: PLC0415 (loading libvirt takes longer than most commands)

    return Provider(ExistingLibvirt(uri), instance)


def _candidates() -> list[str]:
    directories = {*paths.labs().glob("[!.]*"), *private_room.there_are().values(),
                   *filter(None, map(sockets.whose, sockets.directories()))}
    found = {path.name for path in directories if path.parent == paths.labs()}
    found |= {path.name[1:-5] for path in paths.labs().glob(".*.lock")}  # A killed labctl may have left one.
    return sorted(name for name in found if re.fullmatch(NAME_PATTERN, name))


def _collect(name: str, dry: bool) -> list[str]:
    directory = paths.lab(name)
    rooms = [instance for instance, of in private_room.there_are().items() if of == directory]
    places = list(_sockets_of(directory))
    try:
        known = record.load(name)
    except FileNotFoundError:
        found = [f"the room of the lab '{name}' ({instance})" for instance in rooms]
        found += [f"the directory '{path}'" for path in (*places, directory) if path.exists()]
        if found and not dry:
            clear(name)
        return found
    except record.Unreadable:
        return []  # It is listed, and can be taken down.
    rooms = [instance for instance in rooms if instance != known.id]
    places = [place for place in places if place != known.sockets]
    if not dry:
        for instance in rooms:
            private_room.end(instance)
        for place in places:
            _remove_sockets(place, directory)
    return [f"an earlier room of the lab '{name}' ({instance})" for instance in rooms] + [
        f"the directory '{place}'" for place in places]


def _records() -> Iterator[record.Record]:
    for name in names():
        with suppress(LabError, OSError):
            yield record.load(name)


def _sockets_of(directory: Path) -> Iterator[Path]:
    return (found for found in sockets.directories() if sockets.whose(found) == directory)


def _remove_sockets(found: Path, directory: Path) -> None:
    ssh.end_masters(found)
    sockets.remove(found, directory)
