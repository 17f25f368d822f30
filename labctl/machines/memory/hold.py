"""Holding a lab's machines still while their memory is written, also if labctl is killed meanwhile.

libvirt ends a machine when it writes the machine's memory, so for some seconds the machine exists only as a file. The
lab's directory `held` exists from before the first machine is held still until after the last one goes on. If labctl is
killed in between, `thaw` needs no more than this directory: each node without a machine goes on from its memory there.
Before the machines go on, their memory is moved out of the directory, since it is outdated from then on.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from labctl.base import namespace
from labctl.base.each import of_each
from labctl.base.errors import LabError
from labctl.images import qcow2
from labctl.machines.memory import saveimage
from labctl.plan.plan import Plan, PlannedNode

if TYPE_CHECKING:
    from labctl.machines.provider import Provider


@dataclass(frozen=True)
class Machines:
    """A lab's machines, in a private room."""

    plan: Plan
    directory: Path
    """The lab's directory."""
    provider: "Provider"
    xml: Callable[[PlannedNode], str]
    """Returns a node's libvirt XML, which follows from the plan alone."""

    def disk(self, node: PlannedNode) -> Path:
        """The topmost layer of a node's disk, to which its machine writes."""
        return self.directory / "disks" / f"{node.name}.qcow2"


def is_held(lab: Path) -> bool:
    """Whether the machines of the lab in a directory are held still, or were when labctl was killed."""
    return _held(lab).exists()


def release(lab: Path) -> None:
    """Declare that a lab's machines go on, or that their held memory is not needed any more."""
    shutil.rmtree(_held(lab), ignore_errors=True)


def write(machines: Machines, memory: Mapping[str, Path],
          meanwhile: Callable[[], None]) -> tuple[dict[str, str], float]:
    """Hold all machines still, write the memory of each to a file, and let them go on.

    `meanwhile` is called while they are held still. Returns the names of the layers that the nodes' disks have become,
    and for how many seconds the machines were held still. Raises LabError or OSError; the machines go on then as well.
    The lab counts as held until the caller, having seen that it serves, releases it.
    """
    token = uuid4().hex[:8]
    held = _held(machines.directory)
    files = {node.name: held / f"{node.name}.{token}.memory" for node in machines.plan.nodes}
    # The overlays are made first: the disk still has room, and the machines still run.
    of_each(machines.plan.nodes, lambda node: qcow2.overlay(
        _next(machines, files[node.name]), _layer(files[node.name]), qcow2.virtual_size(machines.disk(node))))
    held.mkdir(exist_ok=True)
    since = time.monotonic()
    try:
        machines.provider.suspend()
        of_each(machines.plan.nodes, lambda node: machines.provider.save(node.name, files[node.name]))
        meanwhile()
    finally:
        _bring_back(machines)
        still = time.monotonic() - since
        for node, file in files.items():
            if file.exists():
                file.rename(memory[node])
            _next(machines, file).unlink(missing_ok=True)
        machines.provider.resume()
    return {node: _layer(file) for node, file in files.items()}, still


def thaw(machines: Machines) -> None:
    """Let machines go on that were held still when labctl was killed. Raises LabError."""
    try:
        _bring_back(machines)
        for left in [*_held(machines.directory).iterdir(), *(machines.directory / "disks").glob(".*.next")]:
            left.unlink()
    except OSError as error:
        raise LabError(f"{error.strerror}: '{error.filename}'.") from None
    machines.provider.resume()


def start(machines: Machines, node: PlannedNode, memory: Path, layer: str) -> None:
    """Start a node from memory, paused, with a new disk on top of `layer`, which is its disk as it was saved.

    Raises LabError or OSError.
    """
    disk = machines.disk(node)
    disk.unlink(missing_ok=True)
    qcow2.overlay(disk, layer)
    _restore(machines, node, memory)


def _restore(machines: Machines, node: PlannedNode, memory: Path) -> None:
    saveimage.give(memory, machines.xml(node))
    machines.provider.restore(memory, paused=True)


def _bring_back(machines: Machines) -> None:
    """Start the nodes that have no machine as they were saved, paused."""
    def bring_back(node: PlannedNode) -> None:
        memory = next(filter(saveimage.is_whole, _held(machines.directory).glob(f"{node.name}.*.memory")), None)
        if memory is None:
            raise LabError(f"The machine '{node.name}' is gone, and its memory was not written.")
        disk, layer, new = machines.disk(node), machines.disk(node).with_name(_layer(memory)), _next(machines, memory)
        if not layer.exists():
            disk.rename(layer)
        namespace.take_from_machines(layer)
        if not disk.exists():
            new.rename(disk)
        _restore(machines, node, memory)

    # libvirt may still be busy for a labctl that was killed or gave up waiting.
    machines.provider.settle()
    there = machines.provider.states()
    of_each([node for node in machines.plan.nodes if node.name not in there], bring_back)


def _held(lab: Path) -> Path:
    return lab / "held"


def _layer(memory: Path) -> str:
    """The name of a machine's disk after its memory is written, when the disk no longer changes."""
    return f".{memory.stem}.qcow2"


def _next(machines: Machines, memory: Path) -> Path:
    """The overlay to which a machine will write once it goes on."""
    return machines.directory / "disks" / f".{memory.stem}.next"
