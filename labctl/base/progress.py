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


class Transfer(Protocol):
    """Takes note of how a download goes."""

    def say(self, text: str) -> None:
        """Something the user should know, in one line."""

    def moved(self, here: int, total: int | None) -> None:
        """So many bytes of the file are here, of so many where that is known."""


class Silent:
    """A progress that nobody watches."""

    def say(self, text: str) -> None:
        """See Progress."""

    def passed(self, node: str, gate: Gate) -> None:
        """See Progress."""
