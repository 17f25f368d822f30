"""The program: runs a command and turns what went wrong into a sentence and an exit code.

0 fine; 1 checks failed; 2 could not run; 3 no checks ran; 70 a bug; 130 interrupted.
"""

import gc
import signal
import sys
import traceback
from types import FrameType

from labctl.base.errors import LabError

COULD_NOT_RUN = 2
BUG = 70
INTERRUPTED = 130


def main() -> None:
    """Run labctl on the process's arguments and exit."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    sys.exit(_run())


def _run() -> int:
    try:
        gc.disable()  # What is imported stays; looking for garbage in it would take a quarter of the start.
        from labctl.cli import app  # noqa: PLC0415 (takes part of a second, in which Ctrl-C may come)

        gc.freeze()
        gc.enable()
        app()
    except (SystemExit, KeyboardInterrupt) as end:
        code = getattr(end, "code", INTERRUPTED)
        if code == INTERRUPTED:
            print("labctl: interrupted.", file=sys.stderr)
        return code if isinstance(code, int) else COULD_NOT_RUN
    except LabError as error:
        print(f"labctl: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"        {error.hint}", file=sys.stderr)
        return COULD_NOT_RUN
    except OSError as error:
        if error.filename is None:
            return _bug()
        print(f"labctl: '{error.filename}': {error.strerror}.", file=sys.stderr)
        return COULD_NOT_RUN
    except Exception:
        return _bug()
    return 0


def _bug() -> int:
    traceback.print_exc()
    print("labctl: this is a bug in labctl; please report it with the lines above.", file=sys.stderr)
    return BUG


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
