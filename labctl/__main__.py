"""The program: runs a command and turns errors into a sentence and an exit code.

0 fine; 1 checks failed; 2 could not run; 3 no checks ran; 70 a bug; 130 interrupted; 141 nobody reads its output.

This module imports nothing that takes time to load, so that signals are handled from the start.
"""

# 'signal' itself loads enum, functools and collections first.
import _signal as signal  # type: ignore[import-not-found]
import errno
import gc
import os
import sys
from io import TextIOWrapper

COULD_NOT_RUN = 2
BUG = 70
INTERRUPTED = 130
BROKEN_PIPE = 141
_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> None:
    """Run labctl on the process's arguments and exit."""
    signals = _Signals()
    # If they were closed, the first files that labctl opens would get their numbers, and with them the output.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # A terminal that lacks a character shows '?' for it.
    try:
        code = _run(signals)
        sys.stdout.flush()  # A full disk must show here, while it can still change the exit code.
    except BaseException as error:
        code = _explain(error, signals)
        _drop_output()
    sys.exit(code)


class _Signals:
    """The signals that end labctl.

    While labctl loads, there is nothing to clean up, and other people's modules would turn an exception into another
    one: it ends on the spot. Later a signal raises KeyboardInterrupt. A signal that was ignored when labctl was
    started, as by nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.loading = True
        self.received = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def _receive(self, _number: int, _frame: object) -> None:
        self.received = True
        if self.loading:
            os.write(2, b"labctl: interrupted.\n")
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt


def _run(signals: _Signals) -> int:
    gc.disable()  # Imported modules stay; looking for garbage in them would take a quarter of the start.
    from labctl.cli import app  # noqa: PLC0415 (see above)

    gc.freeze()
    gc.enable()
    signals.loading = False
    app()
    return 0


def _explain(error: BaseException, signals: _Signals) -> int:
    """Say what went wrong; returns the exit code for it."""
    from labctl.base.errors import LabError  # noqa: PLC0415 (see above)
    from labctl.base.text import visible  # noqa: PLC0415 (see above)

    if isinstance(error, LabError):
        return _say(error.message, error.hint)
    if signals.received:  # `error` need not be a KeyboardInterrupt: pydantic raises another exception in its place.
        _tell("labctl: interrupted.")
        return INTERRUPTED
    if isinstance(error, SystemExit):
        nobody_reads = isinstance(error.__context__, BrokenPipeError)
        return BROKEN_PIPE if nobody_reads else error.code if isinstance(error.code, int) else COULD_NOT_RUN
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK_TROUBLE):
        hint = "'labctl gc' makes room." if error.errno == errno.ENOSPC else ""
        return _say(visible(f"{_file(error)}: {error.strerror}."), hint)
    sys.excepthook(type(error), error, error.__traceback__)
    _tell("labctl: this is a bug in labctl; please report it with the lines above.")
    return BUG


def _file(error: OSError) -> str:
    return "A file or the output could not be written" if error.filename is None else f"'{error.filename}'"


def _say(message: str, hint: str = "") -> int:
    _tell(f"labctl: {message}")
    if hint:
        _tell(f"        {hint}")
    return COULD_NOT_RUN


def _tell(line: str) -> None:
    try:
        print(line, file=sys.stderr)
    except OSError:
        return  # The exit code still tells.


def _drop_output() -> None:
    """Discard output that could not be written; Python would try again as it ends, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
