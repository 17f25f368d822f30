"""labctl.observe.outage and labctl.observe.clock: what requests show, whatever their order and whoever's clock."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.observe.clock import Clock
from labctl.observe.outage import OUTCOMES, Gap, Request, Timeline, quantile, requests


def answered(began: float, took: float = 0.01, server: str = "rs1", scout: bool = False) -> Request:
    return Request(began=began, ended=began + took, outcome="answered", status=200, server=server, scout=scout)


def lost(began: float, took: float = 2.0) -> Request:
    return Request(began=began, ended=began + took, outcome="timeout")


outage = st.builds(
    lambda before, silent, after: (before, silent, after),
    st.integers(1, 20), st.integers(1, 40), st.integers(1, 20))


@given(outage, st.randoms(use_true_random=False))
def test_one_outage_is_one_gap_from_the_last_answer_to_the_first_one_after(
        counts: tuple[int, int, int], random: object) -> None:
    before, silent, after = counts
    every = [answered(number / 20) if number < before or number >= before + silent else lost(number / 20)
             for number in range(before + silent + after)]
    random.shuffle(every)  # type: ignore[attr-defined]
    timeline = Timeline(every, end=(before + silent + after) / 20)
    gaps = [gap for gap in timeline.gaps(0.055) if gap.over]
    assert len(gaps) == 1
    assert gaps[0].start == pytest.approx((before - 1) / 20 + 0.01)
    assert gaps[0].seconds == pytest.approx((silent + 1) / 20)
    assert len(timeline.lost) == silent
    assert timeline.outcomes(0, 99) == Counter(answered=before + after, timeout=silent)
    losing = timeline.losing(0, 99)
    assert (losing.start, losing.end) == (before / 20, (before + silent - 1) / 20)


times = st.floats(0, 100, allow_nan=False)
some_request = st.builds(
    lambda began, took, outcome, server, scout: Request(began=began, ended=began + took, outcome=outcome,
                                                        server=server, scout=scout),
    times, st.floats(0, 2), st.sampled_from(OUTCOMES), st.sampled_from(["rs1", "rs2"]), st.booleans())


@given(st.lists(some_request, max_size=60), st.floats(0.01, 5))
def test_gaps_and_answers_share_the_time_and_nobody_answers_in_a_gap(every: list[Request], longer: float) -> None:
    timeline = Timeline(every, end=110)
    gaps = timeline.gaps(longer)
    for gap in gaps:
        assert gap.seconds > longer
        assert not [one for one in timeline.answers if gap.start < one.ended < gap.end]
    for one, other in pairwise(gaps):
        assert one.end <= other.start
    for stretch in timeline.stretches(longer):
        mine = [one.ended for one in timeline.answers if one.server == stretch.who]
        assert stretch.start in mine
        assert stretch.end in mine
    assert sum(timeline.outcomes(0, 200).values()) == len([one for one in every if not one.scout])
    assert sum(timeline.servers().values()) + len(timeline.lost) == len(timeline.requests)


def test_a_scout_ends_a_gap_and_is_no_request() -> None:
    timeline = Timeline([answered(0), lost(0.05), answered(0.8, scout=True), answered(0.9)], end=1)
    assert timeline.gaps(0.5) == [Gap(start=0.01, end=0.81)]
    assert len(timeline.requests) == 3
    assert timeline.servers() == {"rs1": 2}


def test_a_gap_that_nobody_ends_lasts_until_the_end() -> None:
    timeline = Timeline([answered(0), lost(0.05)], end=5)
    assert timeline.silence(1, 5) == Gap(start=0.01, end=5, over=False)
    assert Timeline([lost(0)], end=5).silence(0, 5) is None


def test_it_is_quiet_where_there_were_requests_and_all_were_answered() -> None:
    timeline = Timeline([answered(0), lost(1), answered(2)], end=5)
    assert timeline.quiet(1.5, 3)
    assert not timeline.quiet(0.5, 3)
    assert not timeline.quiet(3, 5)


def test_who_answered_without_a_pause_is_one_stretch() -> None:
    timeline = Timeline([answered(0), answered(0.1, server="rs2"), answered(0.2), answered(3)], end=5)
    assert [(each.who, round(each.start, 2), round(each.end, 2)) for each in timeline.stretches(1)] == [
        ("rs1", 0.01, 0.21), ("rs2", 0.11, 0.11), ("rs1", 3.01, 3.01)]


def test_what_the_client_tells_is_read_and_what_is_none_of_it_left_out() -> None:
    clock = Clock()
    clock.answered(100, 100, 7)
    lines = ["request 8.0000 8.2500 answered 200 px1 rs1\\n", "scout 8.0000 8.3000 answered 200 rs2",
             "request 8.5 8.6 refused 0 ", "request x 8.6 refused 0 ", "request 8.5 8.6 refused", "request",
             "request 8 9 eaten 0 ", "table 1 -", "\x1b[2J", "request 8 9 answered 200 \\N{bad}"]
    found = requests([(103.0, line) for line in lines], clock, zero=100)
    assert found == [
        Request(began=1, ended=1.25, outcome="answered", status=200, server="px1 rs1"),
        Request(began=1, ended=1.3, outcome="answered", status=200, server="rs2", scout=True),
        Request(began=1.5, ended=1.6, outcome="refused")]


@given(st.floats(-1000, 1000), st.lists(st.tuples(st.floats(0, 0.2), st.floats(0, 1)), min_size=1, max_size=9), times)
def test_a_clock_is_read_to_half_of_the_quickest_answer(
        ahead: float, answers: list[tuple[float, float]], moment: float) -> None:
    clock = Clock()
    for number, (took, share) in enumerate(answers):
        clock.answered(number, number + took, number + took * share + ahead)
    assert clock.error == pytest.approx(min(took for took, _ in answers) / 2)
    assert abs(clock.ours(moment + ahead, moment + 9) - moment) <= clock.error + 1e-6


def test_a_clock_that_stood_still_is_read_by_what_was_known_at_the_time() -> None:
    clock = Clock()
    clock.answered(10, 10.01, 10)
    clock.answered(30, 30.01, 20)  # The machine was held still for 10 s.
    assert clock.ours(11, heard=11.1) == pytest.approx(11, abs=0.02)
    assert clock.ours(19, heard=29.1) == pytest.approx(29, abs=0.02)


def test_nothing_happens_after_it_is_heard() -> None:
    clock = Clock()
    clock.answered(10, 11, 10)
    assert clock.ours(12, heard=11.5) == 11.5
    assert Clock().ours(12, heard=11.5) == 11.5


@given(st.lists(times, min_size=1), st.floats(0, 1))
def test_a_quantile_is_one_of_the_values_with_its_share_below(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert quantile(values, 0) == min(values)
    assert quantile(values, 1) == max(values)
