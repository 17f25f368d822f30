"""Waiting: always with a deadline, and until it is called off."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import TypeVar

Value = TypeVar("Value")

_PIECE_SECONDS = 0.1
"""How often a wait checks whether it was called off."""
_thread = threading.local()


class CalledOff(Exception):
    """This thread's work is no longer wanted: labctl was interrupted, or another thread failed."""


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
    """Make all waits of this thread raise CalledOff once the event is set."""
    _thread.called_off = called_off


def pieces(deadline: Deadline) -> Iterator[float]:
    """Split the time until a deadline into short timeouts, at least one, for calls that cannot be interrupted.

    Raises CalledOff.
    """
    while True:
        _check()
        yield min(_PIECE_SECONDS, deadline.remaining)
        if deadline.expired:
            return


def until(condition: Callable[[], Value], deadline: Deadline, interval: float = 0.5) -> Value:
    """Call `condition` until its result is true or the deadline has passed; returns the last result.

    `interval` is in seconds. Raises CalledOff.
    """
    while True:
        _check()
        answer = condition()
        if answer or deadline.expired:
            return answer
        _sleep(min(interval, deadline.remaining))


def within(seconds: float, work: Callable[[], Value], grace: float = 0) -> Value:
    """Return what `work` returns; raise TimeoutError after `seconds`, leaving the call behind in a thread of its own.

    For calls into C libraries, which cannot be ended from outside and during which Python handles no signals. If the
    wait is interrupted, the call gets `grace` seconds to end first. Raises CalledOff as well.
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
