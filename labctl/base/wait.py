"""Waiting: always with a deadline, and no longer than what it is for is wanted."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import TypeVar

Value = TypeVar("Value")

_PIECE_SECONDS = 0.1
"""Somebody who waits looks so often whether they still should."""
_thread = threading.local()


class CalledOff(Exception):
    """What this thread does is not wanted any more: labctl was interrupted, or the same failed elsewhere."""


class Deadline:
    """A point in time, `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """True once no time is left."""
        return self.remaining == 0.0


def obey(called_off: threading.Event) -> None:
    """Have this thread stop waiting, for anything, once the event is set: it gets CalledOff then."""
    _thread.called_off = called_off


def pieces(deadline: Deadline) -> Iterator[float]:
    """The time until a deadline in short pieces, at least one, for what cannot be interrupted. Raises CalledOff."""
    while True:
        _check()
        yield min(_PIECE_SECONDS, deadline.remaining)
        if deadline.expired:
            return


def until(condition: Callable[[], Value], deadline: Deadline, interval: float = 0.5) -> Value:
    """Ask until the answer is true or the deadline has passed; returns the last answer. Raises CalledOff."""
    while True:
        _check()
        answer = condition()
        if answer or deadline.expired:
            return answer
        _sleep(min(interval, deadline.remaining))


def within(seconds: float, work: Callable[[], Value], grace: float = 0) -> Value:
    """What `work` returns, or TimeoutError after so many seconds. It goes on then, in a thread that nobody waits for.

    For calls that cannot be ended from outside: those into C libraries, in which Python handles no signals either.
    Whoever is interrupted meanwhile gives the call `grace` seconds to come to its end. Raises CalledOff as well.
    """
    result: futures.Future[Value] = futures.Future()

    def call() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        for piece in pieces(Deadline(seconds)):
            if futures.wait([result], piece).done:
                return result.result()
    except BaseException:
        futures.wait([result], grace)
        raise
    raise TimeoutError


def _check() -> None:
    called_off = getattr(_thread, "called_off", None)
    if called_off is not None and called_off.is_set():
        raise CalledOff


def _sleep(seconds: float) -> None:
    called_off = getattr(_thread, "called_off", None)
    if called_off is None:
        time.sleep(seconds)
    else:
        called_off.wait(seconds)
