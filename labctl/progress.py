"""What effects tell the user while he waits; the command line decides how it looks."""

from typing import Literal, Protocol, TypeAlias

Gate: TypeAlias = Literal["defined", "booting", "ssh", "configured", "units", "serving"]
GATES: tuple[Gate, ...] = ("defined", "booting", "ssh", "configured", "units", "serving")
"""The gates of a node on its way up; `booting` is at work until ssh is passed, and so on."""


class Progress(Protocol):
    """Takes note of what happens."""

    def say(self, text: str) -> None:
        """Something the user should know, in one line."""

    def passed(self, node: str, gate: Gate) -> None:
        """A node has passed a gate."""
