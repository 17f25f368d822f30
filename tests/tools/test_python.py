"""The programs that checks run on guests, which CentOS 7 gives to Python 2.7: vermin looks at what they use."""

import subprocess
import sysconfig
from pathlib import Path

import pytest
from rendered import ROOT

VERMIN = Path(sysconfig.get_path("scripts")) / "vermin"
MARK = "(CentOS 7: 2.7)"
"""What such a program says in its first line."""
PROGRAMS = [path for directory in ("labctl", "tests/labs") for path in sorted((ROOT / directory).rglob("*.py"))
            if MARK in path.read_text().partition("\n")[0]]


def found_by_vermin(path: Path) -> str:
    """What vermin says about a program that has to run with 2.7 and with 3; nothing where it can."""
    done = subprocess.run([VERMIN, "--quiet", "--no-tips", "--violations", "-t=2.7-", "-t=3.6-", path],
                          capture_output=True, text=True, check=False)
    return done.stdout if done.returncode else ""


def test_there_are_such_programs() -> None:
    assert {path.name for path in PROGRAMS} >= {"asker.py", "sntp.py", "witness.py"}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_what_runs_on_guests_runs_with_python_2_7(path: Path) -> None:
    assert found_by_vermin(path) == ""


@pytest.mark.parametrize("line", ["print(f'{1}')", "def a(b: int): pass", "import subprocess; subprocess.run(['a'])"])
def test_vermin_refuses_what_2_7_does_not_know(line: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"{line}\n")
    assert found_by_vermin(program)
