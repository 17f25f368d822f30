"""labctl.machines.memory.hold: wherever labctl is killed or interrupted, no machine is lost and none goes on twice."""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from samples import plan_of

from labctl.base.errors import LabError
from labctl.images import qcow2
from labctl.machines.memory import hold, saveimage
from labctl.machines.memory.hold import Machines
from labctl.plan.plan import Plan

PLAN = plan_of()
PLAN = PLAN.model_copy(update={"nodes": PLAN.nodes[:2]})
SIZE = 2**31
HEADER = struct.Struct("=16s5I56x")


class Killed(BaseException):
    """labctl is no more."""


@dataclass
class World:
    """libvirt, QEMU and the disk of a lab, and a labctl that ends at one of its effects."""

    lab: Path
    plan: Plan
    running: dict[str, str] = field(default_factory=dict)
    """Each machine's state."""
    disks: dict[str, int] = field(default_factory=dict)
    """The inode of the disk that each machine has open."""
    effects: int = 0
    ends_at: int = -1
    how: type[BaseException] = Killed
    full: bool = False
    """Nothing more fits on the disk."""

    def __post_init__(self) -> None:
        for name in ("disks", "saving"):
            (self.lab / name).mkdir(parents=True)
        for node in self.plan.nodes:
            disk = self.lab / "disks" / f"{node.name}.qcow2"
            disk.write_bytes(b"what it wrote".ljust(24) + SIZE.to_bytes(8, "big"))
            self.running[node.name], self.disks[node.name] = "running", disk.stat().st_ino

    def effect(self) -> None:
        """An effect; once it was killed, labctl has none any more."""
        self.effects += 1
        if self.effects == self.ends_at or (self.how is Killed and self.effects > self.ends_at > 0):
            raise self.how

    # ---- libvirt --------------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        self.effect()
        return dict(self.running)

    def settle(self) -> None:
        self.effect()

    def suspend(self) -> None:
        for name in self.running:
            self.effect()
            self.running[name] = "paused"

    def resume(self) -> None:
        assert not list(self.lab.glob("held/*.memory")), "they are the past once a machine has gone on"
        for name in self.running:
            self.effect()
            self.running[name] = "running"

    def save(self, node: str, path: Path) -> None:
        self.effect()
        path.write_bytes(b"LibvirtQemudPart")
        self.effect()
        if self.full and node == self.plan.nodes[-1].name:
            path.unlink()
            raise LabError("No space left on device.")
        text = b"<domain><emulator>/tmp/evil</emulator></domain>".ljust(4096, b"\0")
        path.write_bytes(HEADER.pack(b"LibvirtQemudSave", 2, len(text), 0, 0, 0) + text + node.encode())
        del self.running[node], self.disks[node]
        self.effect()

    def restore(self, path: Path, *, paused: bool) -> None:
        self.effect()
        assert paused and saveimage.is_whole(path)
        content = path.read_bytes()
        machine = json.loads(content[HEADER.size:HEADER.size + 4096].rstrip(b"\0"))
        node, disk = machine["node"], Path(machine["disk"])
        assert content.endswith(node.encode()), "the memory of another machine"
        assert node not in self.running
        layer = disk
        while (content := layer.read_bytes()).startswith(b"{"):
            layer = disk.with_name(content[32:].decode())
        assert layer != disk and content.startswith(b"what it wrote")
        self.running[node], self.disks[node] = "paused", disk.stat().st_ino
        self.effect()

    # ---- What is looked at afterwards -----------------------------------------------------------------------

    def all_run(self) -> bool:
        """Whether all machines run, each on the disk that has its name."""
        return self.running == {node.name: "running" for node in self.plan.nodes} and all(
            self.disks[node.name] == (self.lab / "disks" / f"{node.name}.qcow2").stat().st_ino
            for node in self.plan.nodes)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, type[BaseException]], World]:
    """Makes worlds in which labctl ends at an effect."""
    current: list[World] = []

    def overlay(path: Path, below: str, size: int) -> None:
        assert size == SIZE
        current[-1].effect()
        path.write_bytes(b"{".ljust(24) + SIZE.to_bytes(8, "big") + below.encode())

    def one_after_the_other(nodes: Sequence[Any], work: Callable[[Any], Any]) -> dict[str, Any]:
        return {node.name: work(node) for node in nodes}

    def counted(method: str) -> None:
        original = getattr(Path, method)

        def effect(path: Path, *arguments: Any, **options: Any) -> Any:
            if "lab-" in str(path):
                current[-1].effect()
            return original(path, *arguments, **options)

        monkeypatch.setattr(Path, method, effect)

    def new(ends_at: int, how: type[BaseException]) -> World:
        monkeypatch.undo()
        monkeypatch.setattr(qcow2, "overlay", overlay)
        monkeypatch.setattr(hold, "of_each", one_after_the_other)
        world = World(tmp_path / f"lab-{len(current)}", PLAN, ends_at=ends_at, how=how)
        current.append(world)
        for method in ("rename", "unlink", "mkdir"):
            counted(method)
        return world

    return new


def machines(world: World) -> Machines:
    """As a labctl sees the world."""
    return Machines(world.plan, world.lab, cast(Any, world), lambda node: json.dumps(
        {"node": node.name, "disk": str(world.lab / "disks" / f"{node.name}.qcow2")}))


def write(world: World, meanwhile: Callable[[], None] = lambda: None) -> dict[str, str]:
    """Save the lab."""
    memory = {node.name: world.lab / "saving" / f"{node.name}.memory" for node in world.plan.nodes}
    return hold.write(machines(world), memory, meanwhile)[0]


def test_all_go_on_and_their_memory_is_kept(make: Callable[[int, type[BaseException]], World]) -> None:
    world = make(-1, Killed)
    layers = write(world)
    assert world.all_run()
    for node in world.plan.nodes:
        assert (world.lab / "disks" / layers[node.name]).read_bytes().startswith(b"what it wrote")
        assert saveimage.is_whole(world.lab / "saving" / f"{node.name}.memory")
    assert hold.is_held(world.lab), "until somebody has seen that it serves"
    hold.release(world.lab)
    assert not hold.is_held(world.lab)
    assert list((world.lab / "disks").glob("*.next")) == []


@pytest.mark.parametrize("how", [Killed, KeyboardInterrupt])
def test_wherever_it_ends_the_machines_run_or_can_go_on(make: Callable[[int, type[BaseException]], World],
                                                        how: type[BaseException]) -> None:
    world = make(-1, how)
    write(world)
    ends = 0
    for ends_at in range(1, world.effects + 1):
        world = make(ends_at, how)
        with pytest.raises(how):
            write(world)
        ends += 1
        world.ends_at = -1
        if hold.is_held(world.lab):
            hold.thaw(machines(world))
        assert world.all_run(), ends_at
        hold.release(world.lab)
        write(world)
        assert world.all_run(), ends_at
    assert ends > 20


def test_the_next_labctl_may_be_killed_as_well(make: Callable[[int, type[BaseException]], World]) -> None:
    whole = make(-1, Killed)
    write(whole)
    for first in range(1, whole.effects + 1, 3):
        for second in range(1, 40, 2):
            world = make(first, Killed)
            with pytest.raises(Killed):
                write(world)
            if not hold.is_held(world.lab):
                continue
            world.effects, world.ends_at = 0, second
            try:
                hold.thaw(machines(world))
            except Killed:
                world.ends_at = -1
                hold.thaw(machines(world))
            assert world.all_run(), (first, second)


def test_where_one_cannot_be_saved_all_go_on(make: Callable[[int, type[BaseException]], World]) -> None:
    world = make(-1, Killed)
    world.full = True
    with pytest.raises(LabError, match="No space left"):
        write(world)
    assert world.all_run()


def test_or_where_what_is_done_meanwhile_fails(make: Callable[[int, type[BaseException]], World]) -> None:
    def fails() -> None:
        raise OSError(28, "No space left on device")

    world = make(-1, Killed)
    with pytest.raises(OSError, match="No space"):
        write(world, fails)
    assert world.all_run()


def test_a_machine_whose_memory_was_not_written_is_missed(make: Callable[[int, type[BaseException]], World]) -> None:
    world = make(-1, Killed)
    (world.lab / "held").mkdir()
    (world.lab / "held/lvs.1a2b3c4d.memory").write_bytes(b"LibvirtQemudPart")
    del world.running["lvs"]
    with pytest.raises(LabError, match="'lvs' is gone, and its memory was not written"):
        hold.thaw(machines(world))
