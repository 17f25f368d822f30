"""What `labctl top` shows on terminals of two sizes. Look at it after a change."""

import io
from datetime import UTC
from pathlib import Path

import pytest
from rich.console import Console
from snapshots import shot

from labctl.cli.panes import PLAIN, Hand, Signs, view
from labctl.observe.overview import Snapshot

EXPECTED = Path(__file__).parent
SIGNS = Signs()


def shown(snapshot: Snapshot, width: int, height: int | None, hand: Hand | None, signs: Signs = SIGNS) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False, highlight=False)
    console.print(view(snapshot, width, height, hand, signs=signs, zone=UTC))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_the_view_is_as_expected(width: int, height: int, regenerate: bool) -> None:
    lines = shown(shot(), width, height, Hand("lvs-s", "3: 'crash lvs-m' is in force; 'h' heals it."))
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    path = EXPECTED / f"top-{width}x{height}.txt"
    text = "\n".join([*lines, ""])
    if regenerate:
        path.write_text(text)
    assert text == path.read_text()


def test_a_terminal_that_is_too_small_is_told_how_large_it_has_to_be() -> None:
    assert shown(shot(), 40, 10, Hand("rs1")) == ["The terminal has 40 × 10 characters;", "this needs 76 × 20."]


def test_what_there_is_no_room_for_is_counted_and_the_chosen_node_is_seen() -> None:
    lines = shown(shot(), 76, 20, Hand("client"))
    assert len(lines) == 20
    assert any("more)" in line for line in lines)
    assert any(line.startswith("▶5 client") for line in lines)
    assert not any("lvs-m " in line and "off" in line for line in lines)
    assert "answers again" in lines[-3]


def test_without_a_hand_there_are_no_keys() -> None:
    lines = shown(shot(), 80, None, None, PLAIN)
    assert not any("quit" in line for line in lines)
    "\n".join(lines).encode("ascii")
