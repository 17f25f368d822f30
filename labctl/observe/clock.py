"""Converting nodes' clocks to ours. Pure."""

_JUMP_SECONDS = 0.05
"""If two answers differ by more than this, beyond their errors, the clock stood still in between."""


class Clock:
    """A node's clock, known by the node's answers about its time.

    All times are seconds of a monotonic clock. A node's clock stops while its machine is held still, and restarts with
    each boot, so several offsets may be known for one node.
    """

    def __init__(self) -> None:
        self._known: list[tuple[float, float]] = []
        """Offsets: by how much the clock was ahead of ours, and the largest error of that."""

    def answered(self, asked: float, came: float, said: float) -> None:
        """Note an answer: when it was asked for and when it came, by our clock, and the node's time."""
        ahead, error = said - (asked + came) / 2, (came - asked) / 2
        if self._known:
            before, most = self._known[-1]
            if abs(ahead - before) <= error + most + _JUMP_SECONDS:
                self._known[-1] = min((before, most), (ahead, error), key=lambda known: known[1])
                return
        self._known.append((ahead, error))

    @property
    def error(self) -> float:
        """By how many seconds `ours` may be wrong at most; infinite if the node never told its time."""
        return max((error for _, error in self._known), default=float("inf"))

    def ours(self, moment: float, heard: float) -> float:
        """A moment of the node's clock, converted to ours; never later than `heard`, when we heard of it."""
        candidates = [moment - ahead for ahead, error in self._known if moment - ahead <= heard + error]
        return min(max(candidates, default=heard), heard)
