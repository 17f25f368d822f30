"""What a running command tells the user meanwhile; the command line decides how it looks."""

from typing import Literal, Protocol, TypeAlias

from typing_extensions import override

Gate: TypeAlias = Literal["defined", "booting", "ssh", "configured", "units", "serving"]
GATES: tuple[Gate, ...] = ("defined", "booting", "ssh", "configured", "units", "serving")
"""The gates that a node passes on its way up, in this order."""


class Progress(Protocol):
    """Is told how a command gets on."""

    def say(self, text: str) -> None:
        """Tell the user something, in one line."""

    def passed(self, node: str, gate: Gate) -> None:
        """Note that a node has passed a gate."""


class Transfer(Protocol):
    """Is told how a download gets on."""

    def say(self, text: str) -> None:
        """Tell the user something, in one line."""

    def moved(self, here: int, total: int | None) -> None:
        """Note that `here` bytes of the file have arrived, of `total` bytes (None: unknown)."""


class Silent(Progress):
    """A progress that nobody watches."""

    @override
    def say(self, text: str) -> None:
        pass

    @override
    def passed(self, node: str, gate: Gate) -> None:
        pass
