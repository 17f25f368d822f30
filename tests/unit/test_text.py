"""labctl.base.text, and where it is used for what guests and files say."""

import io
from pathlib import Path

import pytest
from commands import refused
from hypothesis import given
from hypothesis import strategies as st

from labctl.base.errors import InputError, LabError, Problem
from labctl.base.text import counted, these, visible
from labctl.cli import display


@pytest.mark.parametrize(("raw", "shown"), [
    ("plain\ttext\n", "plain\ttext\n"),
    ("\x1b[0;32m  OK  \x1b[0m", "  OK  "),
    ("\x1b[2J\x1b]0;title\x07", "^[[2J^[]0;title^G"),
    ("\x9b2J\x7f\x00", "\\x9b2J^?^@"),
    ("login: \r\nover\rwritten", "login: \nover^Mwritten"),
    ("\u202etxt.exe", "\\u202etxt.exe"),
    ("Prüfung 张 三", "Prüfung 张 三"),
])
def test_control_characters_are_written_out(raw: str, shown: str) -> None:
    assert visible(raw) == shown


@given(st.text())
def test_nothing_that_moves_a_cursor_is_left(text: str) -> None:
    shown = visible(text)
    assert all(character in "\t\n" or not (ord(character) < 0x20 or 0x7f <= ord(character) < 0xa0)
               for character in shown)
    assert visible(shown) == shown


def test_an_error_is_fit_for_a_terminal_whoever_wrote_its_words() -> None:
    error = LabError("The step rs1/arp could not be undone: \x1b]0;owned\x07", hint="\x9b31m")
    assert (error.message, error.hint, str(error)) == (
        "The step rs1/arp could not be undone: ^[]0;owned^G", "\\x9b31m", error.message)
    assert "^[[2J" in InputError("a.yaml", [Problem(1, "unknown key '\x1b[2J'.")]).message


@pytest.mark.parametrize("key", [r"\e[2J", r"\x9b2J"])
def test_the_keys_of_a_topology_are_no_exception(tmp_path: Path, key: str) -> None:
    (tmp_path / "evil.yaml").write_text(f'title: x\n"{key}": 1\n')
    assert refused("lint", "evil.yaml").message.isprintable() is False  # It has several lines …
    assert all(line.isprintable() for line in refused("lint", "evil.yaml").message.splitlines())


class _Terminal(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", newline="")

    def isatty(self) -> bool:
        return True


def _passed(stream: io.TextIOWrapper, *blocks: bytes, prefix: str = "") -> bytes:
    with display.Passing(stream, prefix) as passing:
        for block in blocks:
            passing.write(block)
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue()


GUEST = b"\xff\x00\x1b[2J\r\n\xc2\x9b31m\x0cend"


def test_what_a_guest_says_goes_to_a_pipe_as_it_is() -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert _passed(pipe, GUEST[:5], GUEST[5:]) == GUEST


def test_what_a_guest_says_cannot_move_a_terminals_cursor() -> None:
    for cut in range(len(GUEST)):
        shown = _passed(_Terminal(), GUEST[:cut], GUEST[cut:])
        assert shown == "\ufffd^@^[[2J\n\\x9b31m^Lend\n".encode()


def test_each_line_of_several_nodes_has_its_name() -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert _passed(pipe, b"a\x1b\x85", b"\nb", prefix="rs1: ") == b"rs1: a\x1b\x85\nrs1: b\n"
    assert _passed(_Terminal(), b"a\x1b\nb", prefix="rs1: ") == b"rs1: a^[\nrs1: b\n"


def test_verbs_and_nouns_agree_with_their_numbers() -> None:
    assert [counted(number, "node") for number in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
    assert these(["a"], "does", "do") == "'a' does"
    assert these(["a", "b"], "does", "do") == "'a' and 'b' do"
    assert these([], "holds", "hold", "no node") == "no node holds"
