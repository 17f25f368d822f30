"""Runs a labctl command and sends it a signal at one of its effects.

    python effects.py NUMBER SIGNAL RECORD WORD...

An effect is a file written, renamed or removed, a program started or waited for, a process signalled, a socket
connected to, or a call to libvirt that is more than a question. Before the effect with this NUMBER the process sends
itself the SIGNAL; 0 sends none. Each effect is a line in the file RECORD.

Python reports file operations and processes to audit hooks (PEP 578); libvirt's functions are wrapped.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import libvirtmod

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.kill",
           "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"}
_QUESTIONS = ("Get", "List", "Lookup", "NumOf", "ConnectIs", "IsActive", "virRegister", "virEvent", "virInitialize",
              "XMLDesc", "Ref", "Free", "SetKeepAlive")
_NOT_OURS = ("/dev/", "/proc/", "__pycache__")


class Watch:
    """Counts effects, and signals at the chosen one."""

    def __init__(self, number: int, signal_: signal.Signals, record: int) -> None:
        self._number, self._signal, self._record = number, signal_, record
        self._lock = threading.Lock()
        self._count = 0
        self._pid = os.getpid()

    def saw(self, what: str) -> None:
        """An effect is about to happen."""
        if os.getpid() != self._pid:
            return  # A child between fork and exec.
        with self._lock:
            self._count += 1
            hit = self._count == self._number
            os.write(self._record, f"{what}\n".encode(errors="replace"))
        if hit:
            os.kill(self._pid, self._signal)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook."""
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and flags & _WRITING and not _passed_over(os.fsdecode(path)):
                self.saw(f"open {os.fsdecode(path)}")
        elif event in _EVENTS:
            if event == "os.kill" and arguments == (self._pid, self._signal):
                return  # Our own.
            first = arguments[0] if event != "socket.connect" else arguments[1]
            self.saw(f"{event} {first!r}")


def _passed_over(path: str) -> bool:
    return any(part in path for part in _NOT_OURS)


def _wrapped(name: str, function: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        watch.saw(name)
        return function(*arguments, **options)

    return call


def main() -> None:
    """See the module."""
    number, name, record = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    sys.argv = ["labctl", *sys.argv[4:]]
    descriptor = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    watch = Watch(number, signal.Signals[name], descriptor)
    for each in dir(libvirtmod):
        if each.startswith("vir") and not any(word in each for word in _QUESTIONS):
            setattr(libvirtmod, each, _wrapped(each, getattr(libvirtmod, each), watch))
    subprocess.Popen.wait = _wrapped("wait for a program", subprocess.Popen.wait, watch)  # type: ignore[method-assign]
    from labctl.__main__ import main as labctl  # noqa: PLC0415 (libvirt's functions are wrapped first)

    sys.addaudithook(watch.audit)
    labctl()


if __name__ == "__main__":
    main()
