"""A drill: what follows from what was seen (course), was promised (promises), is the verdict (drill), and is shown."""

import io
import json
from math import inf

import pytest
from courses import CRASH, asked, course
from rich.console import Console
from samples import HAPROXY, KEEPALIVED, VRRP, changed, lab_of, plan_of

from labctl.base.errors import LabError
from labctl.cli import courses as forms
from labctl.labs.journal import Wanted
from labctl.language.services import Frontend
from labctl.observe import breaking, drill
from labctl.observe.course import Course
from labctl.observe.faults import wanted
from labctl.observe.outage import Stretch
from labctl.observe.promises import Promise, Slack, promise

PLAN = plan_of(KEEPALIVED)
FRONTEND = PLAN.frontends()[0]
MORE = Slack(noticed=2, patience=1)


def test_the_silence_is_from_the_last_answer_to_the_next() -> None:
    seen = course()
    assert [(round(gap.start, 2), round(gap.end, 2)) for gap in seen.gaps] == [(-0.08, 3.02)]
    assert seen.measure == pytest.approx(3.1)
    assert len(seen.timeline.lost) == 30


def test_a_silence_that_only_the_healing_ends_counts_to_its_end() -> None:
    seen = course(requests=asked(-2, 30, silent=(0, 20)))
    assert seen.measure == pytest.approx(20.1)
    assert course(requests=asked(-2, 30, silent=(-2, 30))).measure == 6


def test_where_removal_is_promised_it_counts_for_how_long_requests_were_lost() -> None:
    removal = Promise(kind="removal", seconds=17, allowed=19, why="")
    assert course(promise=removal, requests=asked(-2, 30, silent=(1, 3.5))).measure == pytest.approx(2.4)
    assert course(promise=removal, requests=asked(-2, 30, silent=(9, 9))).measure == 0


def test_a_node_that_was_switched_off_has_the_address_until_then() -> None:
    assert course().holdings == [Stretch(who="lvs-m", start=-2, end=0), Stretch(who="lvs-s", start=2.92, end=26.45),
                                 Stretch(who="lvs-m", start=26.41, end=30)]


def test_the_story_is_told_in_order() -> None:
    story = course().story()
    assert [at for at, _ in story] == sorted(at for at, _ in story)
    assert [text for _, text in story][:4] == [
        "nobody answers, for 3.100 s", "crash lvs-m", "lvs-m answers no more", "lvs-s is MASTER"]


@pytest.mark.parametrize(("what", "kind", "seconds"), [
    (["crash", "lvs"], "takeover", pytest.approx(3.609, abs=0.001)),
    (["stop", "lvs", "keepalived"], "takeover", pytest.approx(0.609, abs=0.001)),
    (["freeze", "lvs"], "takeover", pytest.approx(3.609, abs=0.001)),
    (["unplug", "lvs:lan"], "takeover", pytest.approx(3.609, abs=0.001)),
    (["hang", "lvs", "keepalived"], "takeover", pytest.approx(3.609, abs=0.001)),
    (["crash", "out"], "nothing", 0),
    (["crash", "rs1"], "removal", 17),
    (["stop", "rs1", "httpd"], "removal", 17),
    (["drain", "rs1"], "nothing", 0),
])
def test_what_a_topology_promises(what: list[str], kind: str, seconds: float) -> None:
    found = promise(PLAN, FRONTEND, breaking.fault(PLAN, what), "lvs", MORE)
    assert found
    assert (found.kind, found.seconds) == (kind, seconds)
    assert found.allowed == (0 if kind == "nothing" else pytest.approx(found.seconds + 2))


def test_whoever_has_the_address_decides_what_is_promised() -> None:
    found = promise(PLAN, FRONTEND, wanted.crash(PLAN, "lvs"), "out", MORE)
    assert found
    assert found.kind == "nothing"


def test_nothing_is_promised_where_nobody_takes_over_or_looks() -> None:
    alone = plan_of()
    assert promise(alone, alone.frontends()[0], wanted.crash(alone, "lvs"), "lvs", MORE) is None
    assert alone.topology.services["web"].passes_on() == {"rs1": inf, "rs2": inf}
    assert promise(alone, alone.frontends()[0], wanted.crash(alone, "rs1"), "lvs", MORE) is None
    assert promise(PLAN, FRONTEND, wanted.crash(PLAN, "client"), "lvs", MORE) is None
    assert promise(PLAN, FRONTEND, Wanted(kind="cut", what="cut", nodes=["lvs"]), "lvs", MORE) is None
    assert promise(PLAN, FRONTEND, wanted.unplug(PLAN, "lvs", "far"), "lvs", MORE) is None


def test_a_watched_program_that_stops_is_noticed_by_its_watch() -> None:
    plan = plan_of(VRRP)
    frontend = plan.frontends()[0]
    found = promise(plan, frontend, wanted.stop(plan, "lb1", "haproxy"), "lb1", MORE)
    assert found
    assert (found.kind, found.seconds) == ("takeover", pytest.approx(8.609, abs=0.001))


def test_a_proxy_takes_a_dead_server_out_itself() -> None:
    plan = plan_of(HAPROXY)
    service = next(service for service in plan.topology.services.values() if service.type == "haproxy")
    assert set(service.passes_on().values()) <= {8, inf}


def test_every_promise_of_a_topology_is_drilled() -> None:
    assert [what.what for what in drill.promised(lab_of(PLAN))] == [
        "crash lvs", "freeze lvs", "unplug lvs", "stop lvs keepalived", "crash out", "crash rs1", "stop rs1 httpd",
        "drain rs1"]
    assert drill.promised(lab_of(plan_of())) == [breaking.drain(plan_of(), "rs1")]


@pytest.mark.parametrize(("words", "message"), [
    (["crsh", "lvs"], "There is no fault called 'crsh'."),
    (["crash", "lsv"], "no node called 'lsv'"),
    (["crash"], "'crash' is not a fault."),
    (["unplug", "lvs:lna"], "'lvs' is on no network called 'lna'."),
    (["cut", "lvs", "lvs"], "names 'lvs' twice"),
    (["crash", "lvs", "now"], "'crash lvs now' is not a fault."),
    (["stop", "lvs", "httpd"], "'lvs' has no service called 'httpd'."),
    (["drain", "lvs"], "'lvs' is not a real server"),
    (["skew", "lvs", "soon"], "'soon' is not a number of seconds."),
    (["undo", "rs1"], "'rs1' has no step called ''"),
    (["impair", "rs1", "--loss", "much"], "'much' is not a"),
    (["block", "rs1:lan"], "'block rs1:lan' is not a fault."),
])
def test_what_is_no_fault_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(LabError, match=message):
        breaking.fault(PLAN, words)


@pytest.mark.parametrize("words", [
    "freeze lvs", "unplug lvs:lan", "cut lvs,rs1 out", "block lvs:lan vrrp", "impair rs1 --delay 20ms --loss 1%",
    "hang lvs keepalived", "kill lvs keepalived", "fill rs1", "skew rs1 30", "undo rs1/arp", "drain rs1"])
def test_a_fault_is_made_of_the_words_that_name_it(words: str) -> None:
    assert breaking.fault(PLAN, words.split()).what == words


def test_the_client_has_to_be_there() -> None:
    with pytest.raises(LabError, match="'client' is the node that asks"):
        drill.frontend_for(PLAN, wanted.freeze(PLAN, "client"))


def test_a_lab_without_an_address_has_no_drill() -> None:
    plan = plan_of(changed("services:\n", "services: {}\n").partition("services:")[0])
    with pytest.raises(LabError, match="has no address that clients use"):
        drill.frontend_for(plan, Wanted(kind="crash", what="crash lvs", nodes=["lvs"]))


def judged(seen: Course, frontend: Frontend = FRONTEND) -> dict[str, str]:
    return {verdict.id.partition("/")[2]: verdict.outcome for verdict in drill.judge(seen, frontend, "lvs-m", MORE)}


def test_a_drill_that_goes_as_promised_passes() -> None:
    assert judged(course()) == {"takeover": "passed", "return": "passed", "home": "passed"}


@pytest.mark.parametrize(("changes", "failed"), [
    ({"requests": asked(-2, 30, silent=(0, 5.7))}, "takeover"),
    ({"requests": asked(-2, 30, silent=(20, 25))}, "return"),
    ({"events": ()}, "home"),
    ({"promise": Promise(kind="nothing", seconds=0, allowed=0, why="")}, "lost"),
    ({"promise": Promise(kind="removal", seconds=1, allowed=2, why="")}, "removal"),
])
def test_what_is_worse_than_promised_fails(changes: dict[str, object], failed: str) -> None:
    assert {name for name, outcome in judged(course(**changes)).items() if outcome == "failed"} == {failed}


def test_without_a_promise_only_the_return_is_judged() -> None:
    assert set(judged(course(promise=None))) == {"return", "home"}


def shown(form: str, *courses: Course) -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    shows = forms.make(form, console, Console(file=io.StringIO()), PLAN)
    for each in courses:
        shows.ends(each)
    shows.conclude(courses)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_runs_are_compared_by_their_measures() -> None:
    runs = [course(requests=asked(-2, 30, silent=(0, seconds))) for seconds in (1, 2, 3, 4)]
    one, = forms.distributions(runs)
    assert (one["runs"], one["min"], one["median"], one["p95"], one["max"]) == (4, 1.1, 2.1, 4.1, 4.1)
    assert one["promised"] == CRASH.seconds
    table = shown("table", *runs).splitlines()[-1].split()
    assert table == ["crash", "lvs-m", "4", "1.100", "2.100", "4.100", "4.100", "3.6", "100"]


def test_other_programs_get_all_that_was_seen_and_follows() -> None:
    document = json.loads(shown("json", course()))
    one, = document["drills"]
    assert one["measure"] == 3.1
    assert one["gaps"][0]["seconds"] == 3.1
    assert one["servers"] == {"rs1": 145, "rs2": 145}
    assert one["outcomes"]["broken"] == {"timeout": 30, "answered": 30}
    assert [held["who"] for held in one["held"]] == ["lvs-m", "lvs-s", "lvs-m"]
    assert len(one["requests"]) == 320
    lines = [json.loads(line) for line in shown("jsonl", course()).splitlines()]
    assert [line["event"] for line in lines] == ["drill", "end"]


def test_people_get_the_story_and_the_totals() -> None:
    text = shown("table", course())
    assert "    2.900 s  lvs-s is MASTER\n" in text
    assert "320 requests; answered: rs1 145, rs2 145; lost: 30 timeout; clocks ± 3 ms" in text


def test_gaps_are_longer_than_what_there_was_in_the_calm() -> None:
    busy = tuple(request for request in asked(-2, 30) if not -1.5 < request.began < -1)
    assert course(requests=busy).longer == pytest.approx(1.0)
    assert course().longer == 0.6
    assert course(requests=()).silence is None
    assert course(requests=()).gaps == []
