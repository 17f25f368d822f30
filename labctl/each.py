"""The same for several nodes, all at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from labctl.plan import PlannedNode

Result = TypeVar("Result")


def of_each(nodes: Sequence[PlannedNode], work: Callable[[PlannedNode], Result]) -> dict[str, Result]:
    """What `work` makes of each node, by name; raises what the first of them raised, after all have ended."""
    with ThreadPoolExecutor(max_workers=len(nodes) or 1) as pool:
        return dict(zip([node.name for node in nodes], pool.map(work, nodes), strict=True))
