"""labctl.base.wait: deadlines, by a clock that only sleeping moves."""

import signal
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from labctl.base import wait
from labctl.base.each import of_each
from labctl.base.wait import CalledOff, Deadline, until, within


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of every sleep so far."""
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 1000.0 + sum(slept), sleep=slept.append)
    monkeypatch.setattr(wait, "time", clock)
    return slept


def test_a_deadline_runs_out_and_stays_so(naps: list[float]) -> None:
    deadline = Deadline(2.0)
    assert (deadline.seconds, deadline.remaining, deadline.expired) == (2.0, 2.0, False)
    naps.append(1.5)
    assert (deadline.remaining, deadline.expired) == (0.5, False)
    naps.append(5.0)
    assert (deadline.remaining, deadline.expired) == (0.0, True)


def test_what_is_true_at_once_is_not_waited_for(naps: list[float]) -> None:
    assert until(lambda: "yes", Deadline(10.0)) == "yes"
    assert naps == []


def test_it_is_asked_again_after_each_interval(naps: list[float]) -> None:
    answers = iter([0, 0, 3])
    assert until(lambda: next(answers), Deadline(10.0), interval=2.0) == 3
    assert naps == [2.0, 2.0]


def test_the_last_answer_is_given_when_time_is_up_and_no_time_is_lost(naps: list[float]) -> None:
    answers = iter(["", [], 0, None])
    assert until(lambda: next(answers), Deadline(5.0), interval=2.0) is None
    assert naps == [2.0, 2.0, 1.0]


def test_it_is_asked_once_even_without_any_time(naps: list[float]) -> None:
    assert until(lambda: True, Deadline(0.0)) is True
    assert until(lambda: False, Deadline(-1.0)) is False
    assert naps == []


def test_what_goes_wrong_while_asking_is_not_swallowed(naps: list[float]) -> None:
    with pytest.raises(ZeroDivisionError):
        until(lambda: 1 / 0, Deadline(5.0))
    assert naps == []


def test_a_call_in_time_gives_what_it_returns_or_raises() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


def test_a_call_that_never_returns_is_given_up() -> None:
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.2, threading.Event().wait)
    assert 0.2 <= time.monotonic() - before < 5


def node(name: str) -> SimpleNamespace:
    return SimpleNamespace(name=name)


@pytest.mark.parametrize("waiting", [
    lambda: until(lambda: False, Deadline(60), interval=60),
    lambda: within(60, threading.Event().wait),
], ids=["until", "within"])
def test_a_failure_calls_off_what_is_done_together(waiting: Callable[[], object]) -> None:
    """Whatever the others wait for; and it is the failure that is raised."""
    busy = threading.Event()
    ended: list[str] = []

    def work(node: SimpleNamespace) -> None:
        if node.name == "b":
            assert busy.wait(5)
            raise KeyError("b")
        busy.set()
        try:
            waiting()
        except CalledOff:
            ended.append(node.name)
            raise

    before = time.monotonic()
    with pytest.raises(KeyError, match="b"):
        of_each([node("a"), node("b")], work, together=True)
    assert time.monotonic() - before < 5
    assert ended == ["a"]


def test_a_failure_leaves_alone_what_is_not_done_together() -> None:
    done: list[str] = []

    def work(node: SimpleNamespace) -> None:
        if node.name == "a":
            raise KeyError("a")
        until(lambda: False, Deadline(0.3), interval=0.1)
        done.append(node.name)

    with pytest.raises(KeyError, match="a"):
        of_each([node("a"), node("b")], work)
    assert done == ["b"]


def test_results_are_in_the_order_of_the_nodes() -> None:
    assert of_each([node("b"), node("a")], lambda node: node.name * 2, at_once=1) == {"b": "bb", "a": "aa"}
    assert list(of_each([node("b"), node("a")], lambda node: node.name)) == ["b", "a"]


def test_an_interruption_calls_all_off() -> None:
    called_off: list[str] = []

    def work(node: SimpleNamespace) -> None:
        try:
            within(60, threading.Event().wait)
        except CalledOff:
            called_off.append(node.name)

    before_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = time.monotonic()
    threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            of_each([node("a"), node("b")], work)
    finally:
        signal.signal(signal.SIGINT, before_handler)
    assert time.monotonic() - before < 5
    assert sorted(called_off) == ["a", "b"]
