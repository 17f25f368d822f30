"""labctl.observe.overview: what a lab looks like, from what is seen of it and what its nodes say."""

import json

import pytest
from courses import asked, event
from snapshots import TABLE, answer, plan, seen, shot

from labctl.observe.events import Event
from labctl.observe.outage import Timeline
from labctl.observe.overview import Said, Snapshot, hear, question, snapshot
from labctl.observe.ticker import Ticker

PLAN = plan()
ALL = dict.fromkeys((node.name for node in PLAN.nodes), "running")


def said(name: str, units: str, **more: object) -> dict[str, Said | None]:
    """What all nodes said, and one of them said something else."""
    return {**seen(PLAN).said, name: hear(PLAN, answer(PLAN, units, **more))}  # type: ignore[arg-type]


def node_of(found: Snapshot, name: str) -> tuple[str | None, dict[str, str]]:
    node, = (node for node in found.nodes if node.name == name)
    return node.gate, node.lacks


def test_a_crash_is_seen() -> None:
    found = shot()
    assert (found.serves, found.silent, found.asks) == (False, None, True)
    assert [(node.name, node.state, node.gate) for node in found.nodes][:2] == [
        ("lvs-m", "off", None), ("lvs-s", "running", "units")]
    assert [(vip.holders, vip.silent) for vip in found.vips] == [(["lvs-s"], [])]
    assert {one.server: one.total for one in found.answers} == {"rs1": 230, "rs2": 230}
    assert found.lost == {"timeout": 30}
    assert (sum(found.lost_seconds), len(found.lost_seconds)) == (30, 60)
    assert Snapshot.model_validate_json(json.dumps(found.model_dump(mode="json"))) == found


def test_the_table_is_told_with_its_rates() -> None:
    rows = [(row.director, row.current, row.service, row.server, row.weight, row.active, row.inactive, row.connections,
             row.packets) for row in shot().table]
    assert rows == [("lvs-s", True, "web", "rs1", 1, 2, 291, 9, 55), ("lvs-s", True, "web", "rs2", 0, 0, 17, 0, 2)]


def test_a_server_that_left_the_table_and_a_stranger_in_it_are_seen() -> None:
    table = TABLE.replace("10.10.10.13", "10.10.10.99")
    rows = shot(said=said("lvs-s", "keepalived=active", table=table)).table
    assert [(row.server, row.weight) for row in rows] == [("rs1", 1), ("rs2", None), ("10.10.10.99", 0)]


def test_a_lab_serves_when_all_is_well() -> None:
    events = (event(1, "lvs-m", "has 10.10.10.100", True), event(3, "lvs-s", "loses 10.10.10.100", False))
    well = shot(states=ALL, events=events)
    assert well.serves
    assert {node.gate for node in well.nodes} == {"serving"}
    two = shot(states=ALL, events=(*events, event(4, "lvs-s", "has 10.10.10.100", True)))
    assert (two.serves, two.vips[0].holders) == (False, ["lvs-m", "lvs-s"])
    losing = Timeline([one for one in asked(-20, 30, silent=(27, 28)) if one.ended < 29.9], 30)
    assert not shot(states=ALL, events=events, timeline=losing).serves


@pytest.mark.parametrize(("units", "digest", "gate", "lacks"), [
    ("apache2=active lvs-vip-web=active", "", "units", {}),
    ("apache2=inactive lvs-vip-web=active", "", "configured", {"apache2": "inactive"}),
    ("apache2=active", "other", "ssh", {}),
    ("", "", "units", {}),
])
def test_the_gate_of_a_node_is_the_last_that_it_passes(units: str, digest: str, gate: str, lacks: object) -> None:
    assert node_of(shot(said=said("rs1", units, digest=digest)), "rs1") == (gate, lacks)


def test_a_node_that_boots_has_the_gates_that_whoever_waits_for_it_tells() -> None:
    found = shot(said={**seen(PLAN).said, "rs1": None}, passed={"rs1": "booting"})
    assert node_of(found, "rs1") == ("booting", {})
    assert [node.answers for node in found.nodes if node.name == "rs1"] == [False]


def test_nodes_that_were_not_asked_yet_are_not_said_to_be_silent() -> None:
    assert [node.answers for node in shot(said={}, states=ALL).nodes] == [None] * 5


def test_an_exercise_does_not_give_the_answer_away() -> None:
    found = shot(exercise=True, said=said("rs1", "apache2=inactive"))
    assert node_of(found, "rs1") == (None, {})


def test_who_has_an_address_is_not_known_of_a_node_that_says_nothing() -> None:
    found = shot(states=ALL, said={**seen(PLAN).said, "lvs-m": None}, events=(
        event(0, "lvs-s", "has 10.10.10.100", True),))
    assert (found.vips[0].holders, found.vips[0].silent) == (["lvs-s"], ["lvs-m"])
    gone = Event(at=1, node="lvs-m", kind="node", text="answers no more", has=False)
    assert shot(states=ALL, said={**seen(PLAN).said, "lvs-m": None}, events=(gone,)).vips[0].silent == ["lvs-m"]


def test_a_silence_is_told() -> None:
    timeline = Timeline([one for one in asked(-20, 30, silent=(20, 30)) if one.ended < 29.9], 30)
    ticker = Ticker(10)
    ticker.news(timeline, [])
    assert shot(timeline=timeline, ticker=ticker).silent == pytest.approx(10.1, abs=0.05)


@pytest.mark.parametrize("said", ["", "=end=\n" * 3, "x\n=end=\na b\n", "=end=\n=end=\n1: eth0 inet\n=end=\n -> x",
                                  f"=end=\n=end=\n=end=\n{TABLE.replace('10.10.10.12', '999.1.1.1')}"])
def test_whatever_a_node_says_there_is_no_error(said: str) -> None:
    snapshot(PLAN, seen(PLAN, said={"lvs-s": hear(PLAN, said)}))


def test_only_those_are_asked_for_addresses_and_tables_who_may_have_them() -> None:
    questions = {node.name: question(PLAN, node) for node in PLAN.nodes}
    assert [name for name, asked in questions.items() if "ipvsadm" in asked and "ip -o" in asked] == ["lvs-m", "lvs-s"]
    assert [name for name, asked in questions.items() if "systemctl" not in asked] == ["client"]
