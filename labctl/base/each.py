"""The same for several nodes, all at once."""

import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from math import inf
from typing import Protocol, TypeVar

from labctl.base.wait import CalledOff, Deadline, obey, pieces


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str:
        """The name."""


Node = TypeVar("Node", bound=Named)
Result = TypeVar("Result")


def of_each(nodes: Sequence[Node], work: Callable[[Node], Result], *, at_once: int | None = None,
            together: bool = False) -> dict[str, Result]:
    """What `work` makes of each node, by name; no more than `at_once` are worked on at a time.

    Raises what the first of them raised, after all have ended; those that work `together` are called off by the first
    failure. An interruption calls all of them off: whatever they wait for, they wait no longer.
    """
    called_off = threading.Event()

    def do(node: Node) -> Result:
        try:
            return work(node)
        except BaseException:
            if together:
                called_off.set()  # Before this thread takes the next node.
            raise

    with futures.ThreadPoolExecutor(at_once or len(nodes) or 1, initializer=obey, initargs=(called_off,)) as pool:
        results = {node.name: pool.submit(do, node) for node in nodes}
        try:
            for piece in pieces(Deadline(inf)):
                if called_off.is_set() or not futures.wait(results.values(), piece).not_done:
                    break
        finally:
            called_off.set()
            pool.shutdown(cancel_futures=True)
    # Those that were called off say nothing about why.
    in_order = sorted(results.items(), key=lambda item: _was_called_off(item[1]))
    ended = {name: result.result() for name, result in in_order}
    return {node.name: ended[node.name] for node in nodes}


def _was_called_off(result: "futures.Future[Result]") -> bool:
    return result.cancelled() or isinstance(result.exception(), CalledOff)
