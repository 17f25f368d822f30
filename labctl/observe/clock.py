"""How the clocks of nodes stand to ours. Pure."""

_JUMP_SECONDS = 0.05
"""Two answers that differ by more than this, beyond what either may be wrong by, are of a clock that stood still."""


class Clock:
    """A node's clock, by its answers to the question what time it is.

    All times are seconds of a monotonic clock. The node's stands still while its machine is held still, and begins anew
    as it boots, so one node may have had several.
    """

    def __init__(self) -> None:
        self._known: list[tuple[float, float]] = []
        """By how much each was ahead of ours, and the most by which that is wrong."""

    def answered(self, asked: float, came: float, said: float) -> None:
        """Take note of an answer: when it was asked for and when it came by our clock, and what it was."""
        ahead, error = said - (asked + came) / 2, (came - asked) / 2
        if self._known:
            before, most = self._known[-1]
            if abs(ahead - before) <= error + most + _JUMP_SECONDS:
                self._known[-1] = min((before, most), (ahead, error), key=lambda known: known[1])
                return
        self._known.append((ahead, error))

    @property
    def error(self) -> float:
        """By how many seconds `ours` may be wrong at most; infinite where the node never said what time it was."""
        return max((error for _, error in self._known), default=float("inf"))

    def ours(self, moment: float, heard: float) -> float:
        """A moment of the node's clock by ours, where we heard of it at `heard`: never later than that."""
        candidates = [moment - ahead for ahead, error in self._known if moment - ahead <= heard + error]
        return min(max(candidates, default=heard), heard)
