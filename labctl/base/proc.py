"""This user's processes, as /proc shows them (proc(5))."""

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
    """A process id with its start time, which tells it from a later process with the same id."""

    pid: int
    started: int
    """Its start, in clock ticks since boot."""

    @property
    def runs(self) -> bool:
        """Whether it is still running."""
        return find(self.pid) == self


def find(pid: int) -> Process | None:
    """The process that has this id now; None if there is none, or if it is a zombie."""
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
    """Kill what `processes` returns until it returns none; returns those still left after so many seconds.

    A process that ends loses its arguments first, by which it is found. Process 1 of a namespace then still waits for
    all others there to be gone.
    """
    deadline = Deadline(seconds)
    known: list[Process] = []
    while (left := [process for process in {*known, *processes()} if process.runs]) and not deadline.expired:
        known = left
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)
    return left


def arguments(pid: int) -> list[str]:
    """A process's command line; empty if the process is gone."""
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
