"""The only module that starts other programs."""

import logging
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import IO, Any, NoReturn, TypeAlias

from labctl.base.errors import LabError
from labctl.base.wait import Deadline, pieces

log = logging.getLogger(__name__)

_BLOCK = 2**16
_MOST = 16 * 2**20
"""The most bytes that `run` accepts from a program."""
_WHILE_LABCTL_LIVES = """
exec 3<&0 </dev/null
trap : TERM
"$@" 3<&- & script=$!
{ read -r _ <&3; kill -s TERM 0; } & watch=$!
exec 3<&-
wait "$script"; status=$?
wait "$script"
kill "$watch"
exit "$status"
"""
"""Runs a program, and sends its process group SIGTERM when labctl, the only writer of the pipe at stdin, is gone.

SIGTERM interrupts the first `wait`; the second one lets the program clean up.
"""
Taker: TypeAlias = Callable[[bytes], None]
"""Takes a program's output, block by block."""
Running = subprocess.Popen[bytes]

# An ordinary user's PATH lacks these directories, where libvirtd, mke2fs and others are. Changing PATH itself makes
# scripts search the same directories as labctl.
_SYSTEM = ["/usr/local/sbin", "/usr/sbin", "/sbin"]
os.environ["PATH"] = os.pathsep.join(dict.fromkeys([*os.get_exec_path(), *_SYSTEM]))


class CommandError(LabError):
    """A program failed, took too long, said too much or is not installed."""


class TooSlow(CommandError):
    """A program did not end in time."""


class TooMuch(CommandError):
    """A program printed too much."""


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its status and output.

    `timeout` is in seconds. Raises CommandError if the program is missing, takes too long, prints more than 16 MiB or
    (with `check`) fails.
    """
    out, err = bytearray(), bytearray()
    status = relay(argv, _all(out), _all(err), stdin=stdin, timeout=timeout)
    result = subprocess.CompletedProcess(list(map(str, argv)), status, _text(out), _text(err))
    if check and status:
        said = (result.stderr or result.stdout).strip().splitlines()
        reason = said[-1] if said else "it said nothing"
        raise CommandError(f"The command '{shlex.join(map(str, argv))}' failed with status {status}: {reason}")
    return result


def relay(argv: Sequence[str | Path], out: Taker, err: Taker, timeout: float | None = None, *,
          stdin: str | None = None) -> int:
    """Run a program to its end, passing its output on as it comes, and return its status.

    `timeout` is in seconds. Raises CommandError if the program is missing or takes too long. If `out` or `err` raises,
    the program is killed.
    """
    command = shlex.join(map(str, argv))
    deadline = Deadline(inf if timeout is None else timeout)
    with _start_to_talk(argv) as process:
        try:
            _talk(process, (stdin or "").encode(), out, err, deadline, hang_up=True)
            for piece in pieces(deadline):
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(piece)
            raise TimeoutError
        except TimeoutError:
            process.kill()
            raise TooSlow(f"The command '{command}' did not end within {timeout} s.") from None
        except _Enough:
            process.kill()
            raise TooMuch(f"The command '{command}' prints more than {_MOST >> 20} MiB.") from None
        except BaseException:
            process.kill()
            raise


def first_line(argv: Sequence[str | Path], said: str, timeout: float) -> str:
    """Start a program, send it `said`, return the first line that it prints, and kill it.

    Returns "" if no line comes within `timeout` seconds. Raises CommandError if the program is missing.
    """
    printed = bytearray()

    def take(block: bytes) -> None:
        printed.extend(block)
        if b"\n" in block or len(printed) > _BLOCK:
            raise _Enough

    with _start_to_talk(argv) as process, suppress(TimeoutError, _Enough):
        try:
            # Its standard input stays open, since some programs end when that is closed.
            _talk(process, said.encode(), take, lambda _: None, Deadline(timeout), hang_up=False)
        finally:
            process.kill()
    return _text(printed).partition("\n")[0].strip()


class Dialogue:
    """A program that is talked to while it runs, line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._printed = b""
        self.over = False
        """Whether it has closed its output."""

    def say(self, line: str) -> None:
        """Say a line to the program; nothing where it does not listen any more."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            os.write(self._process.stdin.fileno(), f"{line}\n".encode())

    def hear(self, seconds: float) -> list[str]:
        """The lines that the program has printed, as soon as there is one; none where there is none in this time."""
        assert self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                return []
        block = os.read(self._process.stdout.fileno(), _BLOCK)
        self.over = not block
        *lines, self._printed = (self._printed + block)[-_MOST:].split(b"\n")
        return [line.decode(errors="replace") for line in lines]


@contextmanager
def dialogue(argv: Sequence[str | Path]) -> Iterator[Dialogue]:
    """Talk to a program, which is ended at the end of the block; what it says to stderr is lost.

    Raises CommandError if the program is missing.
    """
    with _start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                start_new_session=True) as process:
        try:
            yield Dialogue(process)
        finally:
            process.terminate()


def run_script(argv: Sequence[str | Path], output: IO[bytes], environment: Mapping[str, str],
               watch: Callable[[], None] | None = None) -> int:
    """Run a long script with its output in a file and return its status.

    `watch` is called every second meanwhile. If it raises, or labctl is interrupted or killed, the script and all that
    it has started get SIGTERM, and time to clean up. Raises CommandError if the program is missing.
    """
    if not shutil.which(argv[0]):
        raise _missing(str(argv[0]))
    with _start(["sh", "-c", _WHILE_LABCTL_LIVES, "sh", *argv], stdin=subprocess.PIPE, stdout=output, stderr=output,
                start_new_session=True, env={**os.environ, **environment}) as process:
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

    With `let_in` the program has a socket as its standard input. It writes a line there and waits for one; in between
    `let_in` is called with its process id. If `let_in` raises, or labctl ends, so does the program.
    """
    ours, theirs = socket.socketpair()
    with output.open("ab") as file, ours:
        with theirs:
            process = _start(argv, stdin=theirs.fileno() if let_in else subprocess.DEVNULL, stdout=file, stderr=file,
                             start_new_session=True)
        if let_in and ours.recv(1):
            try:
                let_in(process.pid)
                ours.sendall(b"\n")
            except BaseException:
                process.kill()
                process.wait()
                raise
        return process


@contextmanager
def listening(argv: Sequence[str | Path]) -> Iterator[Running]:
    """Run a program until the end of the block, and read its outputs meanwhile; Ctrl-C does not reach it.

    Raises CommandError if the program is missing.
    """
    with _start(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def feed(argv: Sequence[str | Path]) -> Running:
    """Start a program that outlives labctl, and reads what it is given; says nothing. Raises CommandError."""
    return _start(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                  start_new_session=True)


def wait(running: Running, timeout: float | None) -> int | None:
    """Wait for a program that was spawned and return its status; if it takes too long, kill it and return None."""
    try:
        return running.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def become(argv: Sequence[str | Path]) -> NoReturn:
    """Replace labctl's process by another program, which gets its terminal and signals and sets the exit code."""
    words = [str(word) for word in argv]
    log.debug("exec %s", shlex.join(words))
    try:
        os.execvp(words[0], words)
    except FileNotFoundError:
        raise _missing(words[0]) from None


class _Enough(Exception):
    """No more of a program's output is wanted."""


def _start(argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
    words = [str(word) for word in argv]
    log.debug("%s", shlex.join(words))
    try:
        return subprocess.Popen(words, **options)
    except FileNotFoundError:
        raise _missing(words[0]) from None


def _start_to_talk(argv: Sequence[str | Path]) -> subprocess.Popen[bytes]:
    return _start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)


def _talk(process: subprocess.Popen[bytes], said: bytes, out: Taker, err: Taker, deadline: Deadline, *,
          hang_up: bool) -> None:
    """Send something to a program, and pass its output on until it closes both streams. Raises TimeoutError."""
    assert process.stdin and process.stdout and process.stderr
    with selectors.DefaultSelector() as selector:
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ, out)
        selector.register(process.stderr, selectors.EVENT_READ, err)
        reading = 2
        for piece in pieces(deadline):
            for key, _ in selector.select(piece):
                if key.fileobj is process.stdin:
                    said = _say(process.stdin, said)
                    if not said:
                        selector.unregister(process.stdin)
                        if hang_up:
                            process.stdin.close()
                elif block := os.read(key.fd, _BLOCK):
                    key.data(block)
                else:
                    selector.unregister(key.fileobj)
                    reading -= 1
            if not reading:
                return
        raise TimeoutError


def _say(to: IO[bytes], said: bytes) -> bytes:
    """Write as much as the pipe takes now and return the rest; b"" if the other end is closed."""
    try:
        return said[os.write(to.fileno(), said[:_BLOCK]):]
    except BrokenPipeError:
        return b""


def _all(printed: bytearray) -> Taker:
    """A taker that keeps all output, and raises _Enough above the limit."""
    def take(block: bytes) -> None:
        printed.extend(block)
        if len(printed) > _MOST:
            raise _Enough

    return take


def _text(printed: bytearray) -> str:
    return printed.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def _missing(program: str) -> CommandError:
    return CommandError(f"The program '{program}' is not installed.", hint="'labctl doctor' says what is missing.")
