"""labctl.observe.live: what a program tells while it runs is heard, and heard again after it has ended."""

import sys
import time
from pathlib import Path

import pytest

from labctl.base.proc import ours
from labctl.base.wait import Deadline, until
from labctl.observe import guest, live
from labctl.observe.events import FOUND, LOST
from labctl.observe.live import Stream

WITNESS = Path(guest.__file__).with_name("witness.py")
CHANGES = [sys.executable, "-S", "-E", str(WITNESS), "changes", "10.10.10.100", "table"]
# Answers the question for the time once, tells something, and ends.
SHORT = ["sh", "-c", 'read -r question; echo "clock $question 5.0"; echo "table 5.0 -"']


def texts(stream: Stream) -> list[str]:
    return [line for _, line in stream.lines]


def test_a_node_tells_and_its_clock_is_known() -> None:
    stream = Stream("here", CHANGES)
    stream.begin()
    assert until(lambda: len(stream.lines) > 1 and stream.clock.error < 0.5, Deadline(20), 0.05)
    before = time.monotonic()
    stream.end()
    assert time.monotonic() - before < 5
    assert FOUND in texts(stream)
    # Here it is the same clock.
    assert abs(stream.clock.ours(before, before + 9) - before) <= stream.clock.error + 0.01
    assert until(lambda: not ours(lambda words: words[:4] == CHANGES[:4]), Deadline(10), 0.1) is True


def test_a_connection_that_ends_is_noted_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_AGAIN_SECONDS", 0.1)
    stream = Stream("here", SHORT)
    stream.begin()
    assert until(lambda: texts(stream).count(LOST) >= 2, Deadline(20), 0.05)
    stream.end()
    assert texts(stream)[:4] == [FOUND, "table 5.0 -", LOST, FOUND]


def test_a_node_that_cannot_be_reached_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_AGAIN_SECONDS", 0.1)
    stream = Stream("nowhere", ["false"])
    stream.begin()
    time.sleep(0.5)
    stream.end()
    assert stream.lines == []
