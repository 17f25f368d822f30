"""The only module that starts other programs."""

import logging
import os
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

from labctl.base.errors import LabError

log = logging.getLogger(__name__)

Running = subprocess.Popen[bytes]

# libvirtd, mke2fs and others are there, and an ordinary user's PATH has none of them. From here on all programs are
# looked for in the same directories, also those that scripts start.
_SYSTEM = ["/usr/local/sbin", "/usr/sbin", "/sbin"]
os.environ["PATH"] = os.pathsep.join(dict.fromkeys([*os.get_exec_path(), *_SYSTEM]))


class CommandError(LabError):
    """A program failed or is not installed."""


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it printed.

    `timeout` is in seconds. Raises CommandError if it is missing, too slow or (with `check`) fails.
    """
    words = [str(word) for word in argv]
    command = shlex.join(words)
    log.debug("%s", command)
    try:
        result = subprocess.run(
            words, input=stdin, timeout=timeout, capture_output=True, text=True, errors="replace", check=False,
            stdin=subprocess.DEVNULL if stdin is None else None,
        )
    except FileNotFoundError:
        raise _missing(words[0]) from None
    except subprocess.TimeoutExpired:
        raise CommandError(f"The command '{command}' did not end within {timeout} s.") from None
    if check and result.returncode:
        said = (result.stderr or result.stdout or "").strip().splitlines()
        reason = said[-1] if said else "it said nothing"
        raise CommandError(f"The command '{command}' failed with status {result.returncode}: {reason}")
    return result


def first_line(argv: Sequence[str | Path], said: str, timeout: float) -> str:
    """Start a program, say something to it, and return the first line that it prints; then it is ended.

    The line is empty where there is none within `timeout` seconds. Raises CommandError if the program is missing.
    """
    words = [str(word) for word in argv]
    log.debug("%s", shlex.join(words))
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   bufsize=0)
    except FileNotFoundError:
        raise _missing(words[0]) from None
    with process:
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        try:
            assert process.stdin and process.stdout
            with suppress(BrokenPipeError):
                process.stdin.write(said.encode())
            return process.stdout.readline().decode(errors="replace").strip()
        finally:
            timer.cancel()
            process.kill()


def run_script(argv: Sequence[str | Path], output: IO[bytes], environment: Mapping[str, str],
               watch: Callable[[], None] | None = None) -> int:
    """Run a long script with its output in a file; returns its status.

    `watch` is called every second meanwhile. If it raises, or labctl is interrupted, everything the script has started
    is ended with it, and may clean up first. Raises CommandError if the program is missing.
    """
    words = [str(word) for word in argv]
    log.debug("%s", shlex.join(words))
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                   start_new_session=True, env={**os.environ, **environment})
    except FileNotFoundError:
        raise _missing(words[0]) from None
    try:
        while True:
            try:
                return process.wait(1 if watch else None)
            except subprocess.TimeoutExpired:
                assert watch
                watch()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise


def spawn(argv: Sequence[str | Path], output: Path, let_in: Callable[[int], None] | None = None) -> Running:
    """Start a program that outlives labctl, in a session of its own, with its output in a file.

    With `let_in` it is one that says a line at its standard input, a socket, and waits for one: meanwhile `let_in` is
    called with its process id. If that raises, or labctl ends, the program does, too.
    """
    words = [str(word) for word in argv]
    log.debug("%s &", shlex.join(words))
    ours, theirs = socket.socketpair()
    try:
        with output.open("ab") as file, ours:
            with theirs:
                process = subprocess.Popen(words, stdin=theirs.fileno() if let_in else subprocess.DEVNULL, stdout=file,
                                           stderr=file, start_new_session=True)
            if let_in and ours.recv(1):
                try:
                    let_in(process.pid)
                    ours.sendall(b"\n")
                except BaseException:
                    process.kill()
                    process.wait()
                    raise
            return process
    except FileNotFoundError:
        raise _missing(words[0]) from None


def wait(running: Running, timeout: float | None) -> int | None:
    """The status of a program that was spawned, once it has ended; None, and it is ended, if it takes too long."""
    try:
        return running.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def become(argv: Sequence[str | Path]) -> NoReturn:
    """Replace labctl by another program, which then has the terminal, the signals and the exit code."""
    words = [str(word) for word in argv]
    log.debug("exec %s", shlex.join(words))
    try:
        os.execvp(words[0], words)
    except FileNotFoundError:
        raise _missing(words[0]) from None


def _missing(program: str) -> CommandError:
    return CommandError(f"The program '{program}' is not installed.", hint="'labctl doctor' says what is missing.")
