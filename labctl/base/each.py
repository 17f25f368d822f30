"""The same for several nodes, all at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str:
        """The name."""


Node = TypeVar("Node", bound=Named)
Result = TypeVar("Result")


def of_each(nodes: Sequence[Node], work: Callable[[Node], Result]) -> dict[str, Result]:
    """What `work` makes of each node, by name; raises what the first of them raised, after all have ended."""
    with ThreadPoolExecutor(max_workers=len(nodes) or 1) as pool:
        return dict(zip([node.name for node in nodes], pool.map(work, nodes), strict=True))
