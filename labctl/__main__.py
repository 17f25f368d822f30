"""The program: runs a command and turns what went wrong into a sentence and an exit code.

0 fine; 1 checks failed; 2 could not run; 3 no checks ran; 70 a bug; 130 interrupted.
"""

import os
import signal
import sys
import traceback
from types import FrameType

import click

from labctl.cli import app
from labctl.errors import LabError

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
        code = app(standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except LabError as error:
        print(f"labctl: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"        {error.hint}", file=sys.stderr)
        return COULD_NOT_RUN
    except click.ClickException as error:
        error.show()
        return COULD_NOT_RUN
    except (KeyboardInterrupt, click.Abort):
        print("labctl: interrupted; what was begun has been taken back.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            traceback.print_exc()
            return BUG
        print(f"labctl: '{error.filename}': {error.strerror}.", file=sys.stderr)
        return COULD_NOT_RUN
    except Exception:  # noqa: BLE001 (the last stop for bugs)
        traceback.print_exc()
        print("labctl: this is a bug in labctl; please report it with the lines above.", file=sys.stderr)
        return BUG


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
