"""The state of a whole lab, memory and disks of all its machines, kept to go back to.

Saving holds all machines still at the same moment and writes their memory; then each goes on from it with a new
overlay, and what it had written by then is a layer that nobody changes any more. A layer names the one below by a
relative path, and files are shared by hard links, so that the directory of a lab and that of a checkpoint are each
complete by themselves.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from pydantic import ValidationError

from labctl.base import files, namespace, paths
from labctl.base.each import of_each
from labctl.base.errors import LabError
from labctl.base.machine import free_disk
from labctl.base.types import Model
from labctl.images import qcow2
from labctl.machines.memory.template import saved_as
from labctl.plan.domain import Disks, moved
from labctl.plan.plan import Plan, PlannedNode

if TYPE_CHECKING:
    from labctl.machines.provider import Provider

_FILE = "checkpoint.json"
_LEFT_SECONDS = 3600
"""After that nobody is saving any more what is half saved."""
_DISK_SHARE = 1.1
"""Room on the disk for each byte of the machines' memory: its pages are written as they are, and a little beside."""


class Saved(Model):
    """A node as it was saved."""

    disk: str
    """The name of its topmost layer."""
    memory_checksum: str
    ahead: float
    """Seconds by which its clock was ahead of ours."""


class Checkpoint(Model):
    """A lab as it was at one moment."""

    made: datetime
    """When the machines were held still."""
    note: str
    trouble: str = ""
    """Why it did not serve; empty if it did."""
    plan: Plan
    key: dict[str, str]
    """What has to be the same for the machines to go on, by what it is called: `image`, `processor` and so on."""
    nodes: dict[str, Saved]
    layer_checksums: dict[str, str]
    """Of all layers that the nodes' disks are made of, by name."""


def save(plan: Plan, key: dict[str, str], lab: Path, home: Path, provider: "Provider", ahead: Mapping[str, float],
         note: str = "", trouble: str = "") -> dict[str, float]:
    """Save a running lab, whose directory is `lab`, as the checkpoint `home`, in place of the one that was there.

    `ahead` says by how many seconds each node's clock is ahead of ours. The machines are held still while their memory
    is written, and go on then. Returns by how many seconds the clock of each is late. Raises LabError, and leaves
    nothing but the lab as it was.
    """
    states = provider.states()
    missing = [node.name for node in plan.nodes if states.get(node.name) != "running"]
    if missing:
        raise LabError(f"The lab '{plan.lab}' cannot be saved; these nodes do not run: {', '.join(missing)}.",
                       hint=f"'labctl reset {plan.lab}' brings all of the lab back to its configured state.")
    home.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    needed = sum(node.memory for node in plan.nodes) * _DISK_SHARE
    free, directory = free_disk(home.parent)
    if free < needed:
        raise LabError(f"The lab '{plan.lab}' cannot be saved: that may need {needed:.0f} MiB of disk in "
                       f"'{directory}', and {free} MiB are free.", hint="'labctl gc' makes room.")
    work = Path(tempfile.mkdtemp(prefix=".saving-", dir=home.parent))
    try:
        (work / "disks").mkdir()
        made = datetime.now().astimezone()
        layers, still = _freeze(plan, lab, work, provider)
        checksums = of_each(plan.nodes, lambda node: files.checksum(_memory(work, node)))
        description = Checkpoint(
            made=made, note=note, trouble=trouble, plan=plan, key=key,
            nodes={name: Saved(disk=layers[name], memory_checksum=checksums[name], ahead=ahead[name])
                   for name in layers},
            layer_checksums={layer.name: files.checksum(layer) for layer in (work / "disks").iterdir()})
        (work / _FILE).write_text(description.model_dump_json(exclude={"plan": {"digest"}}))
        remove(home)
        work.rename(home)
        return {node: still - ahead[node] for node in layers}
    except OSError as error:
        raise LabError(f"The lab '{plan.lab}' cannot be saved: {error.strerror}: '{error.filename}'.") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def restore(checkpoint: Checkpoint, home: Path, nodes: Sequence[PlannedNode], lab: Path,
            provider: "Provider") -> dict[str, float]:
    """Start nodes of a lab, none of which exists now, as they were saved; they go on together.

    Returns by how many seconds the clock of each is late, which stood still meanwhile. Raises LabError if a machine
    does not start; some of the others may be there then.
    """
    for name in ("disks", "seeds", "consoles"):
        (lab / name).mkdir(exist_ok=True)
    try:
        for name in checkpoint.layer_checksums:
            files.adopt(home / "disks" / name, lab / "disks" / name)
        for node in nodes:
            for kind, file in (("seeds", f"{node.name}.iso"), ("consoles", f"{node.name}.log")):
                shutil.copyfile(home / kind / file, lab / kind / file)
        of_each(nodes, lambda node: _thaw(checkpoint.nodes[node.name].disk, node, home, lab, provider))
    except OSError as error:
        raise LabError(f"{error.strerror}: '{error.filename}'.") from None
    # Measured before the first one goes on, as before the first one was held still: it is the same for all.
    still = (datetime.now().astimezone() - checkpoint.made).total_seconds()
    provider.resume()
    return {node.name: still - checkpoint.nodes[node.name].ahead for node in nodes}


def verify(checkpoint: Checkpoint, home: Path, nodes: Sequence[PlannedNode]) -> None:
    """Raise LabError if what is to be read back of nodes is not what was written."""
    def check(node: PlannedNode) -> None:
        if files.checksum(_memory(home, node)) != checkpoint.nodes[node.name].memory_checksum:
            raise LabError(f"The memory of '{node.name}' is not what was saved.")

    try:
        of_each(nodes, check)
        for name, known in checkpoint.layer_checksums.items():
            if files.checksum(home / "disks" / name) != known:
                raise LabError(f"The disk '{name}' is not what was saved.")
    except OSError as error:
        raise LabError(f"{error.strerror}: '{error.filename}'.") from None


def bring_keys(home: Path, lab: Path) -> None:
    """Give a lab the keys that its saved machines know. Raises LabError."""
    try:
        shutil.copytree(home / "keys", lab / "keys", dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise LabError(f"Its keys cannot be read: {error}.") from None


def load(home: Path) -> Checkpoint | None:
    """The checkpoint in a directory, if there is one. Raises LabError where it cannot be read."""
    try:
        checkpoint = Checkpoint.model_validate_json((home / _FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise LabError(f"What is saved in '{home}' cannot be read.") from None
    with suppress(OSError):
        os.utime(home)
    return checkpoint


def differences(checkpoint: Checkpoint, key: dict[str, str]) -> list[str]:
    """What is not as it was when the checkpoint was made."""
    return [what for what in key if checkpoint.key.get(what) != key[what]]


def size(home: Path) -> int:
    """Bytes on the disk that go when it is removed: files that something else has as well do not count."""
    found = [path.stat() for path in home.rglob("*") if path.is_file()]
    return sum(status.st_blocks * 512 for status in found if status.st_nlink == 1)


def sweep(root: Path, in_use: Collection[Path], *, days: float | None = None, gib: float | None = None) -> list[Path]:
    """Remove checkpoints that were not used for `days`, then the least recently used until they take `gib` GiB.

    Those in use stay. Returns what was removed.
    """
    for leftover in root.glob(".*ing-*"):  # Of a labctl that was killed.
        if time.time() - leftover.stat().st_mtime > _LEFT_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
    homes = sorted((path for path in root.glob("[!.]*") if path.is_dir()), key=lambda path: path.stat().st_mtime)
    total, removed = sum(map(size, homes)), []
    for home in homes:
        old = days is not None and time.time() - home.stat().st_mtime > days * 86_400
        if home not in in_use and (old or (gib is not None and total > gib * 2**30)):
            total -= size(home)
            remove(home)
            removed.append(home)
    return removed


def remove(home: Path) -> None:
    """Remove a checkpoint, if it is there. Its layers stay wherever else they are used."""
    if home.exists():
        aside = Path(tempfile.mkdtemp(prefix=".removing-", dir=home.parent))
        home.rename(aside / home.name)
        shutil.rmtree(aside)


# ---- One node ---------------------------------------------------------------------------------------------


def _freeze(plan: Plan, lab: Path, work: Path, provider: "Provider") -> tuple[dict[str, str], float]:
    """Write all memories, and let the nodes go on.

    Returns the layer that each one's disk has become, and for how many seconds they were held still.
    """
    disks = lab / "disks"
    layers = {node.name: f".{node.name}.{uuid4().hex[:8]}.qcow2" for node in plan.nodes}
    held = time.monotonic()
    provider.suspend()
    try:
        of_each(plan.nodes, lambda node: provider.save(node.name, _memory(work, node)))
        for name in ("keys", "seeds", "consoles"):
            shutil.copytree(lab / name, work / name)
    finally:
        # Also where one could not be saved: those that were are gone, and go on from what was written.
        there = provider.states()
        gone = [node for node in plan.nodes if node.name not in there]
        for node in gone:
            (disks / f"{node.name}.qcow2").rename(disks / layers[node.name])
            namespace.take_from_machines(disks / layers[node.name])
        of_each(gone, lambda node: _thaw(layers[node.name], node, work, lab, provider))
        still = time.monotonic() - held
        provider.resume()
    for layer in disks.glob(".*.qcow2"):
        files.adopt(layer, work / "disks" / layer.name)
    return layers, still


def _thaw(layer: str, node: PlannedNode, home: Path, lab: Path, provider: "Provider") -> None:
    """Start a node as it was saved, held still, on a new overlay over its topmost layer."""
    overlay, seed = lab / "disks" / f"{node.name}.qcow2", lab / "seeds" / f"{node.name}.iso"
    overlay.unlink(missing_ok=True)
    qcow2.overlay(overlay, layer)
    memory = _memory(home, node)
    now = Disks(overlay, seed, console=lab / "consoles" / f"{node.name}.log",
                serial=paths.serial(lab.name, node.interfaces[0].address))
    xml = moved(provider.saved_xml(memory), provider.instance, node.name, now)
    with saved_as(xml, memory) as file:
        provider.restore(file, paused=True)


def _memory(home: Path, node: PlannedNode) -> Path:
    return home / f"{node.name}.memory"
