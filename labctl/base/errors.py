"""The errors that users can do something about.

    LabError            could not run (exit code 2)
    ├── InputError      a file the user wrote is wrong; lists every problem
    ├── GateError       a machine did not become ready
    └── Unreachable     a node does not answer

Anything else that escapes is a bug and keeps its traceback (exit code 70).
"""

from dataclasses import dataclass
from pathlib import Path

from labctl.base.text import visible


class LabError(Exception):
    """A full sentence naming the thing, and the command or change that mends it.

    Control characters that files or guests put into it are made visible, so that they cannot move a terminal's cursor.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = visible(message)
        self.hint = visible(hint)
        super().__init__(self.message)


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong in a file: where (1-based line) and what."""

    line: int
    message: str


class InputError(LabError):
    """A file has problems; all of them are listed, each with its line."""

    def __init__(self, file: str | Path, problems: list[Problem], hint: str = "") -> None:
        self.problems = sorted(set(problems))
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        lines = [f"{file}:{problem.line}: {problem.message}" for problem in self.problems]
        super().__init__("\n".join([f"'{file}' has {count}.", *lines]), hint)


class GateError(LabError):
    """A node did not pass a readiness gate before its deadline."""


class Unreachable(LabError):
    """A node does not answer, by SSH or at the serial port that a restored node waits at."""
