"""Processes of this user's, as /proc shows them (proc(5))."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from labctl.base.types import Model
from labctl.base.wait import Deadline

_PROC = Path("/proc")


class Process(Model):
    """A process that can be told from a later one of the same number."""

    pid: int
    started: int
    """Clock ticks from boot to its start."""

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return find(self.pid) == self


def find(pid: int) -> Process | None:
    """The process that has this number now; None if there is none, or if it has ended and is only not reaped yet."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else Process(pid=pid, started=int(fields[19]))


def ours(matches: Callable[[list[str]], bool]) -> list[Process]:
    """This user's processes whose arguments match."""
    found = []
    for directory in _PROC.glob("[0-9]*"):
        words = arguments(int(directory.name))
        if words and matches(words) and _status(directory).get("Uid", "").split()[:1] == [str(os.getuid())]:
            process = find(int(directory.name))
            if process:
                found.append(process)
    return found


def end(processes: Callable[[], list[Process]], seconds: float) -> list[Process]:
    """Kill processes until there are none; returns those that have not ended within so many seconds."""
    deadline = Deadline(seconds)
    while (left := processes()) and not deadline.expired:
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)
    return left


def arguments(pid: int) -> list[str]:
    """What a process was started with; nothing for one that is gone."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _status(directory: Path) -> dict[str, str]:
    try:
        lines = (directory / "status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {key: value for key, _, value in (line.partition(":") for line in lines)}
