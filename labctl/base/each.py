"""Doing the same for several nodes at once."""

import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from math import inf
from typing import Protocol, TypeVar

from labctl.base.wait import CalledOff, Deadline, obey, pieces


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """The name."""


Node = TypeVar("Node", bound=Named)
Result = TypeVar("Result")


def of_each(nodes: Sequence[Node], work: Callable[[Node], Result], *, at_once: int | None = None,
            together: bool = False) -> dict[str, Result]:
    """Call `work` for each node, for at most `at_once` of them at a time; returns the results by the node's name.

    If any call raises, the first such exception is raised once all have ended; with `together`, the first failure calls
    the others off. An interruption calls all of them off: their waits end at once.
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
    # Real failures come first: the ones that were called off do not say why.
    in_order = sorted(results.items(), key=lambda item: _was_called_off(item[1]))
    ended = {name: result.result() for name, result in in_order}
    return {node.name: ended[node.name] for node in nodes}


def _was_called_off(result: "futures.Future[Result]") -> bool:
    return result.cancelled() or isinstance(result.exception(), CalledOff)
