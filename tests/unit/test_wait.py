"""labctl.base.wait: deadlines, by a clock that only sleeping moves."""

from types import SimpleNamespace

import pytest

from labctl.base import wait
from labctl.base.wait import Deadline, until


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
