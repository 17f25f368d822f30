"""labctl.base.process: long scripts, which end with labctl."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from labctl.base.process import CommandError, run_script
from labctl.base.wait import Deadline, until

_SCRIPT = "sleep 61 & echo $$ $!; wait"
_LABCTL = """
import sys
from pathlib import Path
from labctl.base.process import run_script

with Path(sys.argv[1]).open("wb") as output:
    run_script(["sh", "-c", sys.argv[2]], output, {})
"""


def _alive(pids: list[str]) -> list[str]:
    """Those of some processes that have not ended."""
    found = []
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path("/proc", pid, "cmdline").read_bytes():  # Empty where nobody has waited for it.
                found.append(pid)
    return found


def test_a_long_script_has_its_output_in_a_file_and_its_own_status(tmp_path: Path) -> None:
    watched: list[int] = []
    with (tmp_path / "log").open("wb") as output:
        status = run_script(["sh", "-c", "read line; echo $WHO $?; echo oh >&2; sleep 1.5; exit 7"], output,
                            {"WHO": "me"}, lambda: watched.append(1))
        assert run_script(["sh", "-c", "kill -KILL $$"], output, {}) == 128 + signal.SIGKILL
    assert (status, watched) == (7, [1])
    assert (tmp_path / "log").read_text().splitlines()[:2] == ["me 1", "oh"]
    with (tmp_path / "log").open("wb") as output, pytest.raises(CommandError, match="'no-such-program' is not"):
        run_script(["no-such-program"], output, {})


def test_a_long_script_that_is_not_wanted_any_more_is_ended_and_cleans_up_first(tmp_path: Path) -> None:
    log, cleaned = tmp_path / "log", tmp_path / "cleaned"
    script = f"trap 'sleep 0.5; touch {cleaned}; exit' TERM; {_SCRIPT}"

    def watch() -> None:
        raise KeyError

    with log.open("wb") as output, pytest.raises(KeyError):
        run_script(["sh", "-c", script], output, {}, watch)
    assert cleaned.exists()
    assert _alive(log.read_text().split()) == []


def test_a_long_script_does_not_outlive_labctl(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", _LABCTL, log, _SCRIPT]) as labctl:
        assert until(lambda: log.exists() and log.read_text().endswith("\n"), Deadline(60), 0.1)
        pids = log.read_text().split()
        assert _alive(pids) == pids
        labctl.kill()
    assert until(lambda: not _alive(pids), Deadline(20), 0.1)
