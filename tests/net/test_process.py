"""labctl.base.process, with programs that this machine has."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from labctl.base.each import of_each
from labctl.base.process import CommandError, dialogue, first_line, relay, run


def test_a_program_that_talks_on_is_ended_after_its_first_line(tmp_path: Path) -> None:
    script = f'echo $$ >{tmp_path}/pid; read -r said; echo "you said $said"; exec sleep 60'
    before = time.monotonic()
    assert first_line(["sh", "-c", script], "hello\n", 30) == "you said hello"
    assert time.monotonic() - before < 30
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


@pytest.mark.parametrize("script", ["exit 1", "exec sleep 60"])
def test_a_program_that_says_nothing_has_no_first_line(script: str) -> None:
    before = time.monotonic()
    assert first_line(["sh", "-c", script], "hello\n", 0.3) == ""
    assert time.monotonic() - before < 30


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(CommandError, match="'no-such-program' is not installed"):
        first_line(["no-such-program"], "", 1)


def test_a_program_reads_what_it_is_told_and_prints_what_it_wants() -> None:
    said = "ä line\n" * 100_000
    result = run(["sh", "-c", "cat; echo done >&2"], stdin=said)
    assert (result.stdout == said, result.stderr, result.returncode) == (True, "done\n", 0)
    assert run(["sh", "-c", "exit 3"], stdin=said, check=False).returncode == 3
    assert run(["printf", r"a\r\nb\377"]).stdout == "a\nb\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("script", ["exec sleep 60", "exec >&- 2>&-; sleep 60", "exec yes"])
def test_a_program_that_does_not_end_is_ended(script: str, tmp_path: Path) -> None:
    before = time.monotonic()
    with pytest.raises(CommandError, match=r"did not end within 0.5 s|prints more than 16 MiB"):
        run(["sh", "-c", f"echo $$ >{tmp_path}/pid; {script}"], timeout=0.5)
    assert time.monotonic() - before < 30
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_a_program_that_prints_without_end_is_ended() -> None:
    with pytest.raises(CommandError, match="'yes' prints more than 16 MiB"):
        run(["yes"], timeout=60)


@pytest.mark.parametrize("ask", [
    lambda: run(["sleep", "60"], timeout=60),
    lambda: first_line(["sleep", "60"], "", 60),
], ids=["run", "first_line"])
def test_a_program_that_nobody_waits_for_any_more_is_ended(ask: Callable[[], object]) -> None:
    busy = threading.Event()

    def work(node: SimpleNamespace) -> None:
        if node.name == "b":
            assert busy.wait(5)
            raise KeyError("b")
        busy.set()
        ask()

    before = time.monotonic()
    with pytest.raises(KeyError, match="b"):
        of_each([SimpleNamespace(name="a"), SimpleNamespace(name="b")], work, together=True)
    assert time.monotonic() - before < 30


def test_what_a_program_prints_is_handed_on_while_it_prints_it() -> None:
    said: list[tuple[str, bytes]] = []
    script = r"printf 'a\033\n\377'; echo oh >&2; read line; exit 7"
    code = relay(["sh", "-c", script], lambda block: said.append(("out", block)),
                         lambda block: said.append(("err", block)), timeout=60)
    assert code == 7
    assert b"".join(block for stream, block in said if stream == "out") == b"a\x1b\n\xff"
    assert ("err", b"oh\n") in said


def test_a_program_that_is_relayed_has_a_deadline() -> None:
    said: list[bytes] = []
    start = time.monotonic()
    with pytest.raises(CommandError, match="did not end within"):
        relay(["sh", "-c", "echo early; exec sleep 60"], said.append, said.append, timeout=0.5)
    assert said == [b"early\n"]
    assert time.monotonic() - start < 30


def test_a_program_is_talked_to_line_by_line() -> None:
    with dialogue(["sh", "-c", 'while read word; do printf "you said $word\\nhalf "; done']) as talk:
        assert talk.hear(0.1) == []
        talk.say("one")
        assert talk.hear(10) == ["you said one"]
        talk.say("two")
        assert talk.hear(10) == ["half you said two"]
    with dialogue(["true"]) as talk:
        assert talk.hear(10) == []
        assert talk.over
        talk.say("nobody listens")
