"""labctl.observe.faults.timer: faults heal by themselves."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from played import Played, faults_of

from labctl.labs.journal import Journal
from labctl.observe.faults import faults as module
from labctl.observe.faults import timer, wanted


def test_what_is_due_heals_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, started = Played(tmp_path), []
    monkeypatch.setattr(module, "spawn", lambda argv, _: started.append(argv))
    faults = faults_of(lab)
    faults.make(wanted.freeze(lab.plan, "rs1"), seconds=3600)
    faults.make(wanted.freeze(lab.plan, "rs2"))
    past = Journal(lab.directory).add(wanted.hang(lab.plan, "lvs", "nginx"), "user", datetime.now(UTC))
    lab.broken.add("lvs nginx hung")
    assert [argv[2] for argv in started] == ["labctl.observe.faults.timer"]
    assert float(started[0][5]) == pytest.approx(time.time() + 3600, abs=60)
    faults.heal_due()
    assert past not in faults.in_force()
    assert lab.broken == {"rs1 still", "rs2 still"}


def test_it_waits_for_its_time_or_for_the_room_to_end() -> None:
    assert not timer._room_ends_within(0.01, 0)
    assert not timer._room_ends_within(-5, os.getpid())
    gone = int(Path("/proc/sys/kernel/pid_max").read_text()) - 1
    assert timer._room_ends_within(3600, gone)
