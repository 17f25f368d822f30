"""labctl.base.process, with programs that this machine has."""

import time
from pathlib import Path

import pytest

from labctl.base.process import CommandError, first_line


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
