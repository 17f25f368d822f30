"""labctl.machines.memory.checkpoint: what is kept of a lab, as far as no machine is needed to see it."""

import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from labctl.base.errors import LabError
from labctl.machines.memory import checkpoint
from labctl.machines.memory.checkpoint import Checkpoint, differences, leftovers, load, size, sweep

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


def test_what_a_killed_labctl_left_is_told_from_checkpoints(tmp_path: Path) -> None:
    for name in (".saving-lab-1", ".removing-1a2b3c4d", "lab.1a2b"):
        kept(tmp_path, name, 0)
    assert leftovers(tmp_path) == {tmp_path / ".saving-lab-1": "lab-1", tmp_path / ".removing-1a2b3c4d": None}
    assert sweep(tmp_path, [], days=0) == [tmp_path / "lab.1a2b"]


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
    made = Checkpoint(lab="lab", made=datetime.now().astimezone(), note="", nodes={}, layer_checksums={},
                      key={"image": "a", "processor": "b"})
    assert differences(made, {"image": "a", "processor": "b"}) == []
    assert differences(made, {"image": "c", "processor": "b", "accelerator": "kvm"}) == ["image", "accelerator"]


GOOD: dict[str, Any] = {
    "lab": "lab", "made": "2026-01-02T03:04:05+00:00", "note": "before the exam", "trouble": "", "key": {"image": "a"},
    "nodes": {"rs1": {"disk": ".rs1.1a2b3c4d.qcow2", "memory_checksum": "0", "ahead": 0.1}},
    "layer_checksums": {".rs1.1a2b3c4d.qcow2": "1", ".0123456789abcdef.qcow2": "2"}}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    made = Checkpoint.model_validate(GOOD)
    (tmp_path / "checkpoint.json").write_text(made.model_dump_json())
    assert load(tmp_path) == made


@pytest.mark.parametrize("change", [
    {"lab": "../lab"},
    {"lab": ""},
    {"made": "2026-01-02T03:04:05"},
    {"key": {}},
    {"nodes": {"../rs1": GOOD["nodes"]["rs1"]}},
    {"nodes": {"rs1": {**GOOD["nodes"]["rs1"], "disk": ".rs2.00000000.qcow2"}}},
    {"nodes": {"rs1": {**GOOD["nodes"]["rs1"], "ahead": None}}},
    {"nodes": {"rs1": {**GOOD["nodes"]["rs1"], "ahead": "NaN"}}},
    {"layer_checksums": {**GOOD["layer_checksums"], "../rs1.qcow2": "1"}},
    {"layer_checksums": {**GOOD["layer_checksums"], "/etc/shadow": "1"}},
    {"layer_checksums": {**GOOD["layer_checksums"], ".a.qcow2\n": "1"}},
    {"more": 1},
])
def test_what_cannot_be_a_checkpoint_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "checkpoint.json").write_text(json.dumps(GOOD | change))
    with pytest.raises(LabError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b" " * 2**21])
def test_nor_is_any_other_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.json").write_bytes(content)
    with pytest.raises(LabError, match="cannot be read"):
        load(tmp_path)


def test_a_checkpoint_goes_whole(tmp_path: Path) -> None:
    home = kept(tmp_path, "it", 0)
    checkpoint.remove(home)
    checkpoint.remove(home)
    assert left(tmp_path) == set()
