"""Sections of code that a signal to end labctl must not cut short."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def deferred() -> Iterator[None]:
    """Let the `with` block finish, then raise KeyboardInterrupt if a signal to end came meanwhile.

    A signal that is ignored stays ignored. For the main thread, which alone receives signals.
    """
    came: list[int] = []
    with _told(came.append):
        yield
    if came:
        raise KeyboardInterrupt


@contextmanager
def awaited() -> Iterator[Callable[[], bool]]:
    """Let a signal to end be how the block ends; the function says whether one came. A second one interrupts as ever.

    To be used in the main thread.
    """
    came: list[int] = []

    def tell(number: int) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    with _told(tell):
        yield lambda: bool(came)


@contextmanager
def passed_over() -> Iterator[None]:
    """Ignore signals to end, so that clean-up finishes however often Ctrl-C is pressed. For the main thread."""
    with _told(lambda _number: None):
        yield


@contextmanager
def _told(tell: Callable[[int], None]) -> Iterator[None]:
    """Call `tell` on signals to end. An ignored signal stays ignored, also for programs that are started meanwhile."""
    def handle(number: int, _frame: FrameType | None) -> None:
        tell(number)

    before = {number: signal.signal(number, handle) for number in _ENDING
              if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
