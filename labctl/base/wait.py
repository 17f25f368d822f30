"""Waiting, always with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


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


def until(condition: Callable[[], Value], deadline: Deadline, interval: float = 0.5) -> Value:
    """Ask until the answer is true or the deadline has passed; returns the last answer."""
    while True:
        answer = condition()
        if answer or deadline.expired:
            return answer
        time.sleep(min(interval, deadline.remaining))
