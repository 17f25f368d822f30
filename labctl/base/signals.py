"""What may not be cut short although the user wants to stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def deferred() -> Iterator[None]:
    """Let what is inside finish: KeyboardInterrupt is raised after it if a signal to end came meanwhile.

    A signal that is ignored stays ignored. To be used in the main thread, which alone gets signals.
    """
    came: list[int] = []
    with _told(came.append):
        yield
    if came:
        raise KeyboardInterrupt


@contextmanager
def passed_over() -> Iterator[None]:
    """Let clean-up finish, however often Ctrl-C is pressed. To be used in the main thread."""
    with _told(lambda _number: None):
        yield


@contextmanager
def _told(tell: Callable[[int], None]) -> Iterator[None]:
    """Have signals to end told. One that is ignored stays so, also for the programs that are started meanwhile."""
    def handle(number: int, _frame: FrameType | None) -> None:
        tell(number)

    before = {number: signal.signal(number, handle) for number in _ENDING
              if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
