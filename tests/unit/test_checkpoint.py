"""labctl.machines.memory.checkpoint: what is kept of a lab, as far as no machine is needed to see it."""

import os
import time
from datetime import datetime
from pathlib import Path

import pytest
from samples import plan_of

from labctl.base.errors import LabError
from labctl.machines.memory import checkpoint
from labctl.machines.memory.checkpoint import Checkpoint, Saved, differences, load, size, sweep

DAY = 86_400


def kept(root: Path, name: str, days: float, kib: int = 64) -> Path:
    home = root / name
    (home / "disks").mkdir(parents=True)
    (home / "web.memory").write_bytes(os.urandom(kib * 1024))
    then = time.time() - days * DAY
    os.utime(home, (then, then))
    return home


def left(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_what_was_not_used_for_long_goes_unless_a_lab_needs_it(tmp_path: Path) -> None:
    old, needed, new = kept(tmp_path, "old", 31), kept(tmp_path, "needed", 40), kept(tmp_path, "new", 29)
    assert sweep(tmp_path, [needed], days=30) == [old]
    assert left(tmp_path) == {needed.name, new.name}


def test_the_least_recently_used_goes_until_the_rest_is_small_enough(tmp_path: Path) -> None:
    homes = [kept(tmp_path, f"used-{days}-days-ago", days) for days in (3, 2, 1)]
    each = size(homes[0])
    assert each >= 64 * 1024
    assert sweep(tmp_path, [], gib=2 * each / 2**30) == homes[:1]
    assert sweep(tmp_path, [homes[1]], gib=0) == homes[2:]
    assert left(tmp_path) == {homes[1].name}


def test_what_a_killed_labctl_left_half_saved_goes(tmp_path: Path) -> None:
    old, new = kept(tmp_path, ".saving-old", 1), kept(tmp_path, ".saving-new", 0)
    assert sweep(tmp_path, []) == []
    assert left(tmp_path) == {new.name}, old


def test_nothing_goes_unasked(tmp_path: Path) -> None:
    kept(tmp_path, "ancient", 1000)
    assert sweep(tmp_path, []) == []
    assert sweep(tmp_path / "none", [], days=0) == []


def test_files_that_something_else_has_as_well_take_no_space(tmp_path: Path) -> None:
    home = kept(tmp_path, "shared", 0)
    before = size(home)
    layer = tmp_path / "layer"
    layer.write_bytes(os.urandom(2**20))
    (home / "disks/layer").hardlink_to(layer)
    assert size(home) == before
    layer.unlink()
    assert size(home) >= before + 2**20


def test_what_differs_is_called_by_its_name() -> None:
    plan = plan_of()
    made = Checkpoint(made=datetime.now().astimezone(), note="", plan=plan, nodes={}, layer_checksums={},
                      key={"image": "a", "processor": "b"})
    assert differences(made, {"image": "a", "processor": "b"}) == []
    assert differences(made, {"image": "c", "processor": "b", "accelerator": "kvm"}) == ["image", "accelerator"]


def test_reading_one_back_is_using_it(tmp_path: Path) -> None:
    home = kept(tmp_path, "it", 10)
    assert load(home) is None
    made = Checkpoint(made=datetime.now().astimezone(), note="before the exam", plan=plan_of(), key={"image": "a"},
                      nodes={"rs1": Saved(disk=".rs1.qcow2", memory_checksum="0", ahead=0.1)},
                      layer_checksums={".rs1.qcow2": "1"})
    (home / "checkpoint.json").write_text(made.model_dump_json(exclude={"plan": {"digest"}}))
    assert load(home) == made
    assert home.stat().st_mtime > time.time() - 60
    (home / "checkpoint.json").write_text("{}")
    with pytest.raises(LabError, match="cannot be read"):
        load(home)


def test_a_checkpoint_goes_whole(tmp_path: Path) -> None:
    home = kept(tmp_path, "it", 0)
    checkpoint.remove(home)
    checkpoint.remove(home)
    assert left(tmp_path) == set()
