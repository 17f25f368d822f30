"""The moments at which commands are ended, and a command that is ended at one of them."""

import random
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from machines import PATIENCE, Labctl

_EFFECTS = Path(__file__).with_name("effects.py")
_SIGNALS = ("SIGKILL", "SIGINT", "SIGTERM", "SIGHUP")
_INTERRUPTED = 130


@dataclass(frozen=True)
class Moment:
    """A point in a command's effects, as a share of them, and the signal that comes then."""

    name: str
    signal: str
    share: float

    def __str__(self) -> str:
        return f"{self.name}-{self.signal}-{self.share:.3f}"


def sample(counts: Iterable[tuple[str, int]], config: pytest.Config) -> list[Moment]:
    """So many moments of each command, another sample for each `--kill-seed`.

    SIGKILL, after which nothing can be put right, is tried as often as the others together.
    """
    chance = random.Random(config.getoption("--kill-seed"))
    moments = []
    for name, count in counts:
        for number in range(count):
            signal_ = "SIGKILL" if number % 2 == 0 else chance.choice(_SIGNALS[1:])
            moments.append(Moment(name, signal_, chance.random()))
    return moments


@dataclass(frozen=True)
class Ended:
    """What became of a command that was ended."""

    code: int
    said: str
    effects: list[str]
    number: int
    """The effect at which it was to be ended; 0: at none."""

    def __str__(self) -> str:
        last = self.effects[min(self.number, len(self.effects)) - 1]
        return f"at effect {self.number} of {len(self.effects)}, '{last}'\n{self.said}"

    def as_it_should(self, signal_: str) -> bool:
        """Whether it ended as a command does that gets this signal."""
        expected = {-signal.SIGKILL} if signal_ == "SIGKILL" else {_INTERRUPTED, 0}
        if len(self.effects) < self.number:  # It came to its end before it had as many as the one that was counted.
            expected.add(0)
        return self.code in expected and "Traceback" not in self.said


def end(labctl: Labctl, words: Iterable[str], number: int = 0, signal_: str = "SIGKILL") -> Ended:
    """Run a command and end it at an effect (0: let it come to its end)."""
    record = labctl.directories["state"] / "effects"
    record.unlink(missing_ok=True)
    command = [sys.executable, str(_EFFECTS), str(number), signal_, str(record), *words]
    result = labctl.run(command, code=None, timeout=120 * PATIENCE, LABCTL_ONCE="0")
    return Ended(result.code, result.out + result.err, record.read_text().splitlines(), number)
