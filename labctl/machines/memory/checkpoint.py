"""Checkpoints: the state of a whole lab, memory and disks of all its machines.

Saving holds all machines still at one moment and writes their memory. Each machine then goes on with a new overlay; its
disk up to that moment has become a layer, which no longer changes. A layer names the one below it by a relative path,
and files are shared by hard links, so a lab's directory and a checkpoint's directory are each complete by themselves.

A checkpoint may come from somebody else, or be damaged. So names are checked before they become paths, only regular
files are read, a disk is based only on layers of the checkpoint and the lab's image, and libvirt's XML follows from the
plan alone.
"""

import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Self
from uuid import uuid4

from pydantic import AwareDatetime, FiniteFloat, StringConstraints, ValidationError, model_validator

from labctl.base import files, signals
from labctl.base.each import of_each
from labctl.base.errors import LabError
from labctl.base.machine import free_disk
from labctl.base.types import Model, Name
from labctl.images import qcow2
from labctl.machines.memory import hold, saveimage
from labctl.machines.memory.hold import Machines
from labctl.plan.plan import Plan, PlannedNode

_FILE = "checkpoint.json"
_LONGEST_FILE = 2**20
_SAVING = "saving"
"""The directory of a lab in which its checkpoint is put together."""
_DISK_SHARE = 1.1
"""The disk space needed per byte of the machines' memory, which is written uncompressed, with some overhead."""
_LARGEST_OTHER = 2**26
"""The most bytes of a seed or a console's copy that are read back."""
_COPYING = ".saving-"
"""Begins the name of a copy to another file system; the name of the lab, whose lock the writer holds, follows."""
_REMOVING = ".removing-"
_LEFT = re.compile(rf"{re.escape(_COPYING)}(?P<lab>.+)|{re.escape(_REMOVING)}.+", re.DOTALL)

LayerName = Annotated[str, StringConstraints(pattern=r"^\.[A-Za-z0-9-]{1,40}(\.[0-9a-f]{1,32})?\.qcow2$")]


class Saved(Model):
    """A node as it was saved."""

    disk: LayerName
    """The name of its topmost layer."""
    memory_checksum: str
    ahead: FiniteFloat
    """By how many seconds its clock was ahead of ours."""


class Checkpoint(Model):
    """A lab as it was at one moment."""

    lab: Name
    made: AwareDatetime
    """When the machines were held still."""
    note: str
    trouble: str = ""
    """Why the lab did not serve; empty if it did."""
    exercise: bool = False
    """Whether users are to find out what is wrong: labctl does not tell which steps are undone."""
    key: dict[str, str]
    """Values that have to be the same when the machines go on, by name: `image`, `processor` and so on."""
    nodes: dict[Name, Saved]
    layer_checksums: dict[LayerName, str]
    """The checksums of all layers of the nodes' disks, by name."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not {node.disk for node in self.nodes.values()} <= self.layer_checksums.keys():
            raise ValueError("the layer of a node is missing")
        if "image" not in self.key:
            raise ValueError("the image is missing")
        return self


def save(machines: Machines, key: dict[str, str], home: Path, ahead: Mapping[str, float], note: str = "",
         trouble: str = "", *, exercise: bool = False) -> dict[str, float]:
    """Save a running lab as the checkpoint `home`, replacing an earlier one.

    `ahead` is by how many seconds each node's clock is ahead of ours. The machines are held still while their memory is
    written, and then go on. Returns by how many seconds each node's clock is late then. After a LabError the lab is as
    before, and nothing is left. A signal to end labctl takes effect once the machines go on. The caller has to release
    the lab (see `hold`).
    """
    plan, lab = machines.plan, machines.directory
    states = machines.provider.states()
    missing = [node.name for node in plan.nodes if states.get(node.name) != "running"]
    if missing:
        raise LabError(f"The lab '{plan.lab}' cannot be saved; these nodes do not run: {', '.join(missing)}.",
                       hint=f"'labctl reset {plan.lab}' brings all of the lab back to its configured state.")
    work = lab / _SAVING
    try:
        forget_unfinished(lab)
        home.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _need_space(plan, {lab, home.parent})
        (work / "disks").mkdir(parents=True)
        made = datetime.now().astimezone()

        def meanwhile() -> None:
            for name in ("keys", "seeds", "consoles"):
                shutil.copytree(lab / name, work / name)

        with signals.deferred():
            layers, still = hold.write(machines, {node.name: _memory(work, node) for node in plan.nodes}, meanwhile)
        for layer in _below(lab / "disks", layers.values()):
            files.adopt(lab / "disks" / layer, work / "disks" / layer)
        checksums = of_each(plan.nodes, lambda node: saveimage.checksum(_memory(work, node)))
        description = Checkpoint(
            lab=plan.lab, made=made, note=note, trouble=trouble, exercise=exercise, key=key,
            nodes={name: Saved(disk=layers[name], memory_checksum=checksums[name], ahead=ahead[name])
                   for name in layers},
            layer_checksums={layer.name: files.checksum(layer) for layer in (work / "disks").iterdir()})
        (work / _FILE).write_text(description.model_dump_json())
        _put(work, home, plan.lab)
        return {node: still - ahead[node] for node in layers}
    except (OSError, shutil.Error) as error:
        raise LabError(f"The lab '{plan.lab}' cannot be saved: {_said(error)}.") from None
    finally:
        forget_unfinished(lab)


def restore(checkpoint: Checkpoint, home: Path, nodes: Sequence[PlannedNode], machines: Machines) -> dict[str, float]:
    """Start nodes of a lab as they were saved; they have no machines now, and go on together.

    The checkpoint has to be verified first. Returns by how many seconds each node's clock, which stood still since, is
    late. Raises LabError if a machine does not start; others may have started then.
    """
    lab = machines.directory
    try:
        with suppress(OSError):
            os.utime(home)  # Notes the time of its last use, for `sweep`.
        for kind in ("disks", "seeds", "consoles"):
            (lab / kind).mkdir(exist_ok=True)
        for name in checkpoint.layer_checksums:
            files.adopt(home / "disks" / name, lab / "disks" / name)
        for node in nodes:
            for file in _others(node):
                shutil.copyfile(home / file, lab / file)
        of_each(nodes, lambda node: hold.start(machines, node, _memory(home, node), checkpoint.nodes[node.name].disk))
    except OSError as error:
        raise LabError(f"What is saved of the lab '{checkpoint.lab}' cannot go on: {_said(error)}.") from None
    # Taken once, before the first machine goes on, as `made` was before the first one was held still.
    still = (datetime.now().astimezone() - checkpoint.made).total_seconds()
    machines.provider.resume()
    return {node.name: still - checkpoint.nodes[node.name].ahead for node in nodes}


def verify(checkpoint: Checkpoint, home: Path, nodes: Sequence[PlannedNode], image: Path) -> None:
    """Raise LabError if the saved files of nodes are damaged, or do not belong to this image."""
    def check(node: PlannedNode) -> None:
        if saveimage.checksum(_memory(home, node)) != checkpoint.nodes[node.name].memory_checksum:
            raise LabError(f"The memory of '{node.name}' is not what was saved.")

    try:
        _check_files(checkpoint, home, nodes)
        of_each(nodes, check)
        for name, known in checkpoint.layer_checksums.items():
            layer = home / "disks" / name
            below = qcow2.backing_file(layer)
            if below not in checkpoint.layer_checksums and Path(below).resolve() != image.resolve():
                raise LabError(f"The disk '{name}' is based on '{below}', which is no part of what was saved.")
            if files.checksum(layer) != known:
                raise LabError(f"The disk '{name}' is not what was saved.")
    except OSError as error:
        raise LabError(f"What is saved of the lab '{checkpoint.lab}' cannot be read: {_said(error)}.") from None


def load(home: Path) -> Checkpoint | None:
    """The checkpoint in a directory; None if there is none. Raises LabError if it cannot be read."""
    try:
        with (home / _FILE).open("rb") as file:
            text = file.read(_LONGEST_FILE + 1)
        return Checkpoint.model_validate_json(text)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise LabError(f"What is saved in '{home}' cannot be read.") from None


def forget_unfinished(lab: Path) -> None:
    """Remove the unfinished checkpoint that a killed labctl left in a lab's directory."""
    shutil.rmtree(lab / _SAVING, ignore_errors=True)


@contextmanager
def receiving(home: Path, lab: str, disk_of: Callable[[str], Path]) -> Iterator[Path]:
    """A directory for the files of a checkpoint from another machine, which becomes `home` at the end of the block.

    Its disks are then layers over the image of this machine, which `disk_of` finds by its digest. The caller holds the
    lock of the lab `lab`. Raises LabError, and leaves nothing, if the files are no checkpoint of that lab.
    """
    near = home.with_name(f"{_COPYING}{lab}")
    work = near / home.name
    try:
        shutil.rmtree(work, ignore_errors=True)
        for kind in ("keys", "seeds", "consoles", "disks"):
            (work / kind).mkdir(parents=True, mode=0o700)
        yield work
        _settle(work, lab, disk_of)
        _replace(work, home)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):
            near.rmdir()


def _settle(home: Path, lab: str, disk_of: Callable[[str], Path]) -> None:
    """Make a checkpoint from another machine one of this machine: its disks, and who may read its files."""
    found = load(home)
    if found is None or found.lab != lab:
        raise LabError(f"What was to be the checkpoint '{home.name}' of the lab '{lab}' is none.")
    disk = disk_of(found.key["image"])
    checksums = dict(found.layer_checksums)
    for name in found.layer_checksums:
        layer = home / "disks" / name
        if not layer.is_file():
            raise LabError(f"The disk '{name}' of the checkpoint '{home.name}' is missing.")
        if qcow2.backing_file(layer) not in found.layer_checksums:
            qcow2.put_over(layer, disk)
            checksums[name] = files.checksum(layer)
        layer.chmod(0o444)
    for key in (home / "keys").iterdir():
        key.chmod(0o600)
    (home / "disks").chmod(0o755)
    files.write_atomically(home / _FILE, found.model_copy(update={"layer_checksums": checksums}).model_dump_json())


def differences(checkpoint: Checkpoint, key: dict[str, str]) -> list[str]:
    """The names of the key's values that differ from those when the checkpoint was made."""
    return [what for what in key if checkpoint.key.get(what) != key[what]]


def size(home: Path) -> int:
    """The bytes on disk that removing the checkpoint would free; files with other hard links do not count."""
    total = 0
    for path in home.rglob("*"):
        with suppress(OSError):  # It may be removed meanwhile.
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                total += status.st_blocks * 512
    return total


def sweep(root: Path, in_use: Collection[Path], *, days: float | None = None, gib: float | None = None,
          dry: bool = False) -> list[Path]:
    """Remove checkpoints not used for `days`, then the least recently used until the rest take at most `gib` GiB.

    Those in `in_use` stay. Returns the removed ones; with `dry`, those that would be removed.
    """
    used = {path: seconds for path in root.glob("[!.]*") if path.is_dir() and (seconds := _used(path))}
    homes = sorted(used, key=lambda home: used[home])
    total, removed = sum(map(size, homes)), []
    for home in homes:
        old = days is not None and time.time() - used[home] > days * 86_400
        if home not in in_use and (old or (gib is not None and total > gib * 2**30)):
            total -= size(home)
            if not dry:
                remove(home)
            removed.append(home)
    return removed


def leftovers(root: Path) -> dict[Path, str | None]:
    """Directories that a killed labctl left of checkpoints, each with the lab for which one may still be at work."""
    return {path: match["lab"] for path in root.glob(".*") if (match := _LEFT.fullmatch(path.name))}


def remove(home: Path) -> None:
    """Remove a checkpoint if it exists. Layers that others use stay there."""
    aside = home.with_name(f"{_REMOVING}{uuid4().hex[:8]}")
    with suppress(FileNotFoundError):
        home.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


# ---- The files of a checkpoint ------------------------------------------------------------------------------


def _used(home: Path) -> float | None:
    """When a checkpoint was last used, in seconds since 1970; None if it is gone by now."""
    try:
        return home.stat().st_mtime
    except OSError:
        return None


def _need_space(plan: Plan, directories: Collection[Path]) -> None:
    needed = sum(node.memory for node in plan.nodes) * _DISK_SHARE
    for directory in directories:
        free, there = free_disk(directory)
        if free < needed:
            raise LabError(f"The lab '{plan.lab}' cannot be saved: that may need {needed:.0f} MiB of disk in "
                           f"'{there}', and {free} MiB are free.", hint="'labctl gc' makes room.")


def _below(disks: Path, layers: Iterable[str]) -> set[str]:
    """The names of layers and of all layers below them in the same directory."""
    found: set[str] = set()
    for layer in layers:
        name = layer
        while name not in found and "/" not in name:
            found.add(name)
            name = qcow2.backing_file(disks / name)
    return found


def _put(work: Path, home: Path, lab: str) -> None:
    """Move a complete checkpoint to its place, where an earlier one stays until the new one is ready to be renamed."""
    near = home.with_name(f"{_COPYING}{lab}")
    try:
        shutil.rmtree(near, ignore_errors=True)
        if work.stat().st_dev != home.parent.stat().st_dev:
            shutil.copytree(work, near)
            work = near
        _replace(work, home)
    finally:
        shutil.rmtree(near, ignore_errors=True)


def _replace(work: Path, home: Path) -> None:
    old = home.with_name(f"{_REMOVING}{uuid4().hex[:8]}")
    try:
        with suppress(FileNotFoundError):
            home.rename(old)
        work.rename(home)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _check_files(checkpoint: Checkpoint, home: Path, nodes: Sequence[PlannedNode]) -> None:
    """Raise LabError unless all files to be read of a checkpoint exist and are regular files."""
    for node in nodes:
        if node.name not in checkpoint.nodes:
            raise LabError(f"The node '{node.name}' is no part of what was saved.")
    large = [*(_memory(home, node) for node in nodes), *(home / "disks" / name for name in checkpoint.layer_checksums)]
    small = [home / file for node in nodes for file in _others(node)]
    for path in [*large, *small]:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or (path in small and status.st_size > _LARGEST_OTHER):
            raise LabError(f"'{path}' is not what was saved.")


def _others(node: PlannedNode) -> list[str]:
    """A node's files in a checkpoint other than its memory and disk."""
    return [f"seeds/{node.name}.iso", f"consoles/{node.name}.log"]


def _memory(home: Path, node: PlannedNode) -> Path:
    return home / f"{node.name}.memory"


def _said(error: OSError | shutil.Error) -> str:
    return f"{error.strerror}: '{error.filename}'" if isinstance(error, OSError) and error.strerror else str(error)
