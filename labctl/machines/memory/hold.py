"""A lab's machines are held still while their memory is written, and go on from there.

libvirt ends a machine whose memory it writes, so for some seconds all there is of it is a file. A directory of the
lab's, `held`, exists from before the first machine is held still until after the last one goes on. Wherever labctl is
killed in between, what is in that directory is enough for `thaw`: a node that has no machine goes on from its memory
there. Before the machines go on, the memories leave the directory, since they are the past from then on.
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
    """A lab's machines, in a room of its own."""

    plan: Plan
    directory: Path
    """The lab's."""
    provider: "Provider"
    xml: Callable[[PlannedNode], str]
    """What libvirt is told of a node, by the plan alone."""

    def disk(self, node: PlannedNode) -> Path:
        """The topmost layer of a node's disk, which its machine writes to."""
        return self.directory / "disks" / f"{node.name}.qcow2"


def is_held(lab: Path) -> bool:
    """Whether the machines of the lab in a directory are held still, or were when labctl was killed."""
    return _held(lab).exists()


def release(lab: Path) -> None:
    """Say that the machines of a lab go on, or that nothing of what they were is wanted any more."""
    shutil.rmtree(_held(lab), ignore_errors=True)


def write(machines: Machines, memory: Mapping[str, Path],
          meanwhile: Callable[[], None]) -> tuple[dict[str, str], float]:
    """Hold all machines still, write the memory of each to a file, and let them go on.

    `meanwhile` is done while nothing changes. Returns the names of the layers that the nodes' disks have become, and
    for how many seconds the machines were held still. Raises LabError or OSError; they go on then as well. The lab
    counts as held until it is released, which is for somebody who has seen that it serves.
    """
    token = uuid4().hex[:8]
    held = _held(machines.directory)
    files = {node.name: held / f"{node.name}.{token}.memory" for node in machines.plan.nodes}
    # Made while there is room on the disk, and while the machines still run.
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
    """Let the machines of a lab go on that were held still when labctl was killed. Raises LabError."""
    try:
        _bring_back(machines)
        for left in [*_held(machines.directory).iterdir(), *(machines.directory / "disks").glob(".*.next")]:
            left.unlink()
    except OSError as error:
        raise LabError(f"{error.strerror}: '{error.filename}'.") from None
    machines.provider.resume()


def start(machines: Machines, node: PlannedNode, memory: Path, layer: str) -> None:
    """Start a node, which has no disk, from memory, held still; `layer` has what it had written by then.

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
    """Start those that have no machine as they were saved."""
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

    # libvirt may still be at what a labctl asked it for that was killed, or that waits no longer.
    machines.provider.settle()
    there = machines.provider.states()
    of_each([node for node in machines.plan.nodes if node.name not in there], bring_back)


def _held(lab: Path) -> Path:
    return lab / "held"


def _layer(memory: Path) -> str:
    """What the disk of a machine is called once its memory is written, and nobody changes it any more."""
    return f".{memory.stem}.qcow2"


def _next(machines: Machines, memory: Path) -> Path:
    """The overlay with which a machine will go on."""
    return machines.directory / "disks" / f".{memory.stem}.next"
