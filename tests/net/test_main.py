"""labctl as a process: signals, and output that cannot be written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_COMMAND = """
import sys
from types import ModuleType
import labctl.__main__

cli = sys.modules["labctl.cli"] = ModuleType("labctl.cli")

def app():
    import os, signal, time
    print("ready", flush=True)
    {work}

cli.app = app
labctl.__main__.main()
"""
"""labctl with another command line."""

_SLOW_LOADING = """
import sys, time
import labctl.__main__

class Slow:
    def find_spec(self, name, *_):
        if name == "labctl.cli":
            print("ready", flush=True)
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                raise ImportError("no such thing") from None

sys.meta_path.insert(0, Slow())
labctl.__main__.main()
"""
"""A part of labctl that makes something else of an interruption."""


def end(script: str, *numbers: signal.Signals, ignore: signal.Signals | None = None) -> tuple[int, str]:
    """Send signals to a program once it says that it is ready; returns its exit code and what it says about it."""
    before = "import signal\n" + "".join(
        f"signal.signal({int(number)}, signal.{'SIG_IGN' if number == ignore else 'SIG_DFL'})\n"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    with subprocess.Popen([sys.executable, "-c", before + script], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)  # So that it is busy, and not still saying so.
        for number in numbers:
            process.send_signal(number)
        _, err = process.communicate(timeout=30)
        return process.returncode, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("script", [_COMMAND.format(work="time.sleep(60)"), _SLOW_LOADING], ids=["busy", "loading"])
def test_an_interrupted_command_says_so_in_a_line(script: str, number: signal.Signals) -> None:
    assert end(script, number) == (130, "labctl: interrupted.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_ignored_signal_stays_so(number: signal.Signals) -> None:
    """As by nohup, which ignores SIGHUP, and by a shell without job control, which ignores SIGINT."""
    work = f"time.sleep(0.2); assert signal.getsignal({int(number)}) is signal.SIG_IGN"
    assert end(_COMMAND.format(work=work), number, ignore=number) == (0, "")


def test_an_interruption_that_became_something_else_is_one() -> None:
    work = "\n    try: time.sleep(60)\n    except KeyboardInterrupt: raise RuntimeError('in a validator') from None"
    assert end(_COMMAND.format(work=work), signal.SIGINT) == (130, "labctl: interrupted.\n")


def test_a_command_in_a_guest_may_end_like_an_interrupted_one() -> None:
    assert end(_COMMAND.format(work="raise SystemExit(130)")) == (130, "")


def labctl(tmp_path: Path, words: str) -> subprocess.CompletedProcess[str]:
    """A labctl without labs, in a shell's line."""
    directories = {f"XDG_{name}_HOME": str(tmp_path) for name in ("STATE", "CACHE", "DATA", "CONFIG")}
    return subprocess.run(["bash", "-o", "pipefail", "-c", f"{sys.executable} -m labctl {words}"], check=False,
                          capture_output=True, text=True, timeout=60, env={**os.environ, **directories})


@pytest.mark.parametrize("words", ["list --topologies", "list -o json"])
def test_a_full_disk_under_the_output_is_said(tmp_path: Path, words: str) -> None:
    result = labctl(tmp_path, f"{words} >/dev/full")
    assert result.returncode == 2
    assert result.stderr.startswith("labctl: A file or the output could not be written: No space left on device.\n")
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_an_error_that_cannot_be_said_keeps_its_exit_code(tmp_path: Path) -> None:
    assert labctl(tmp_path, "down nothing 2>/dev/full").returncode == 2


def test_somebody_who_never_read_is_told_by_the_exit_code(tmp_path: Path) -> None:
    """1 would be that checks failed."""
    result = labctl(tmp_path, "schema | (exec <&-; sleep 3)")
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize("words", ["list --topologies >&-", "list --topologies >&- 2>&-"])
def test_a_closed_output_is_no_error(tmp_path: Path, words: str) -> None:
    result = labctl(tmp_path, words)
    assert (result.returncode, result.stderr) == (0, "")
