"""labctl.observe.ticker and labctl.cli.watching: what is new from one look to the next."""

import io
import json

from courses import asked, event
from rich.console import Console

from labctl.cli.watching import Events, Lines
from labctl.observe.outage import Timeline
from labctl.observe.ticker import Ticker, by_second

EVERY = asked(-2, 10, silent=(2, 4))


def until(end: float) -> Timeline:
    """What is known at a moment."""
    return Timeline([request for request in EVERY if request.ended < end - 0.1], end)


def test_each_thing_is_told_once_whatever_is_looked_at_again() -> None:
    ticker = Ticker(10)
    told = []
    for step in range(-2, 20):
        at = step / 2
        moved = 0.01 if step % 2 else 0.0  # The clock of a node is known better later.
        told += ticker.news(until(at), [event(3.5 + moved, "lvs-s", "is MASTER")] if at > 3.5 else [])
    assert [text for _, text in told] == ["nobody answers", "lvs-s is MASTER", "answers again, after 2.100 s"]
    assert abs(ticker.longest - 2.1) < 0.01
    assert ticker.silent_since is None


def test_a_silence_that_goes_on_is_seen() -> None:
    ticker = Ticker(10)
    ticker.news(until(3.8), [])
    assert ticker.silent_since is not None
    assert abs(ticker.silent_since - 1.92) < 0.01


def test_with_patience_a_short_silence_is_none() -> None:
    assert [len(Ticker(10, patience).news(until(9), [])) for patience in (3, 4)] == [2, 0]  # It lasts 2.1 s.


def test_requests_are_counted_once() -> None:
    ticker = Ticker(10)
    for at in (0.0, 0.5, 2, 7, 10, 20):
        ticker.news(until(at), [])
    assert sum(ticker.servers.values()) == 100
    assert ticker.lost == {"timeout": 20}


def test_each_second_has_its_counts() -> None:
    counts = by_second(until(8), 5)
    assert sum(counts["rs1"]) == sum(counts["rs2"]) == 15
    assert counts["rs1"][:1] == [0]
    assert sum(counts[""]) == 20


def test_programs_get_an_object_for_each_thing() -> None:
    console = Console(file=io.StringIO())
    shown = Events(console)
    ticker = Ticker(10)
    for at, text in ticker.news(until(8), []):
        shown.tell(at, text)
    shown.look(until(8), ticker, {"lvs-m": True, "lvs-s": False})
    shown.conclude(ticker)
    assert isinstance(console.file, io.StringIO)
    lines = [json.loads(line) for line in console.file.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["change", "change", "second", "end"]
    assert lines[2]["holders"] == ["lvs-m"]


def test_people_get_a_line_for_each_thing_and_on_a_terminal_who_answers() -> None:
    for terminal in (False, True):
        console = Console(file=io.StringIO(), width=80, force_terminal=terminal, highlight=False)
        ticker = Ticker(10)
        with Lines(console, "lvs: 10.10.10.100:80", 10) as shown:
            for at, text in ticker.news(until(8), []):
                shown.tell(at, text)
            shown.look(until(8), ticker, {"lvs-m": True})
        shown.conclude(ticker)
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert "nobody answers" in text
        assert ("lvs-m has the address" in text) == terminal
