"""labctl.observe: what is made of what is seen, as far as no lab is needed for it."""

from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import HAPROXY, NAT, plan_of

from labctl.observe.balancing import choices, is_rotation, rotation, until_the_next
from labctl.observe.observer import Observer
from labctl.observe.web import must_be_well
from labctl.observe.wire import Answer, Connection, Load, connections, mac_to_node, told

if TYPE_CHECKING:
    from labctl.labs.lab import Lab

# ---- The schedulers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheduler", "table", "expected"), [
    ("rr", {"A": 3, "B": 1}, "A B"),
    ("rr", {"B": 1, "A": 3}, "B A"),
    ("wrr", {"B": 1, "A": 3}, "A A B A"),
    ("wrr", {"A": 3, "B": 1}, "A A A B"),
    ("wrr", {"C": 3, "B": 2, "A": 1}, "C C B C B A"),
    ("wrr", {"A": 1, "B": 2, "C": 3}, "C B C A B C"),
    ("wrr", {"A": 200, "B": 100}, "A A B"),
    ("wrr", {"A": 7}, "A"),
])
def test_a_round_is_the_kernels(scheduler: str, table: dict[str, int], expected: str) -> None:
    assert rotation(scheduler, table) == expected.split()


tables = st.dictionaries(st.sampled_from("ABCDE"), st.integers(1, 6), min_size=1)


@given(st.sampled_from(["rr", "wrr"]), tables, st.integers(1, 4), st.integers(0), st.integers(0))
def test_rounds_are_a_rotation_wherever_they_start_and_end(
        scheduler: str, table: dict[str, int], rounds: int, start: int, end: int) -> None:
    round_ = rotation(scheduler, table)
    answers = round_ * rounds
    start %= len(round_)
    assert is_rotation(answers[start:] + answers[:start], round_)
    assert is_rotation(answers[start:start + end % (len(answers) + 1)], round_)


@given(tables)
def test_in_a_round_each_gets_its_weight(table: dict[str, int]) -> None:
    round_ = rotation("wrr", table)
    assert all(round_.count(one) * table[two] == round_.count(two) * table[one] for one in table for two in table)


@pytest.mark.parametrize(("answers", "round_"), [
    ("A A", "A B"), ("A B B A", "A B"), ("A B C", "A C B"), ("A B X", "A B"), ("B A A B", "A A A B"),
])
def test_other_orders_are_no_rotation(answers: str, round_: str) -> None:
    assert not is_rotation(answers.split(), round_.split())


@pytest.mark.parametrize(("scheduler", "table", "expected"), [
    ("sed", {"rs3": 1, "rs2": 2, "rs1": 3}, "rs1 rs2 rs1 rs3 rs2 rs1"),
    ("sed", {"rs1": 3, "rs2": 2, "rs3": 1}, "rs1 rs2 rs1 rs1 rs2 rs3"),
    ("nq", {"rs3": 1, "rs2": 2, "rs1": 3}, "rs3 rs2 rs1 rs1 rs2 rs1"),
    ("nq", {"A": 1, "B": 100}, "A B B B B B"),
    ("lc", {"rs3": 1, "rs2": 2, "rs1": 3}, "rs3 rs2 rs1 rs3 rs2 rs1"),
    ("wlc", {"rs3": 1, "rs2": 2, "rs1": 3}, "rs3 rs2 rs1 rs1 rs2 rs1"),
])
def test_connections_that_stay_open_are_dealt_out_like_this(
        scheduler: str, table: dict[str, int], expected: str) -> None:
    assert choices(scheduler, table, 6) == expected.split()


@given(st.sampled_from(["wlc", "sed", "nq"]), tables)
def test_a_full_round_of_open_connections_is_by_weight(scheduler: str, table: dict[str, int]) -> None:
    chosen = choices(scheduler, table, sum(table.values()))
    assert {server: chosen.count(server) for server in table} == table


@given(tables, st.integers(1, 4))
def test_least_connections_are_equal_connections(table: dict[str, int], rounds: int) -> None:
    chosen = choices("lc", table, rounds * len(table))
    assert {chosen.count(server) for server in table} == {rounds}


def test_connections_of_the_past_count_for_lc_and_wlc_alone() -> None:
    table, load = {"A": 2, "B": 1}, {"A": Load(0, 0), "B": Load(0, 4)}
    assert choices("wlc", table, 9, load, stay_open=False) == list("AAAAAAAAA")
    assert choices("wlc", table, 10, load, stay_open=False)[-1] == "B"
    assert choices("lc", table, 6, load, stay_open=False) == list("AAAAAB")
    assert choices("sed", table, 3, load, stay_open=False) == list("AAA")
    assert choices("nq", table, 3, load, stay_open=False) == list("AAA")
    assert choices("wlc", table, 3, load) == list("ABA")


def test_connections_that_are_open_already_count_for_all() -> None:
    table, load = {"A": 1, "B": 1}, {"A": Load(1, 0)}
    assert [choices(scheduler, table, 2, load)[0] for scheduler in ("lc", "wlc", "sed", "nq")] == list("BBBB")


@pytest.mark.parametrize(("load", "count"), [
    ({}, 2),
    ({"A": Load(0, 0), "B": Load(0, 4)}, 10),
    ({"A": Load(0, 8), "B": Load(0, 0)}, 5),
    ({"A": Load(0, 0), "B": Load(1, 0)}, 0),
])
def test_after_so_many_requests_a_second_server_has_its_turn(load: dict[str, Load], count: int) -> None:
    assert until_the_next("wlc", {"A": 2, "B": 1}, load) == count


@given(tables, st.sampled_from(["lc", "wlc"]), st.lists(st.integers(0, 30), min_size=5, max_size=5))
def test_whatever_happened_before_the_second_server_is_due_then_and_not_before(
        table: dict[str, int], scheduler: str, past: list[int]) -> None:
    load = {server: Load(0, count) for server, count in zip("ABCDE", past, strict=True)}
    due = until_the_next(scheduler, table, load)
    chosen = choices(scheduler, table, max(due, 1), load, stay_open=False)
    assert len(set(chosen[:-1])) <= 1
    assert (len(set(chosen)) == 2) == bool(due)


# ---- The connection table -----------------------------------------------------------------------------

LISTING = """\
IPVS connection entries
pro expire state       source             virtual            destination
TCP 14:58  ESTABLISHED 20.20.20.50:12345  20.20.20.100:80    10.10.10.12:8080
TCP 00:14  NONE        20.20.20.201:0     20.20.20.101:80    10.10.10.12:80
TCP 00:19  NONE        20.20.20.201:0     20.20.20.100:0     10.10.10.13:0
IP  00:09  NONE        20.20.20.201:0     0.0.0.3:0          10.10.10.12:0
UDP 04:59  UDP         20.20.20.50:5353   20.20.20.100:53    10.10.10.12:53
TCP 01:59  TIME_WAIT   20.20.20.50:12346  20.20.20.100:80    10.10.10.13:80
"""


def test_connections_and_templates_are_read() -> None:
    client, other = IPv4Address("20.20.20.50"), IPv4Address("20.20.20.201")
    first, second = IPv4Address("10.10.10.12"), IPv4Address("10.10.10.13")
    vip = IPv4Address("20.20.20.100")
    assert connections(LISTING) == [
        Connection("ESTABLISHED", 898, client, 12345, vip, 80, first),
        Connection("NONE", 14, other, 0, IPv4Address("20.20.20.101"), 80, first),
        Connection("NONE", 19, other, 0, vip, 0, second),
        Connection("NONE", 9, other, 0, IPv4Address("0.0.0.3"), 0, first),
        Connection("TIME_WAIT", 119, client, 12346, vip, 80, second),
    ]


# ---- Answers, and none --------------------------------------------------------------------------------


def test_a_page_names_who_answered_and_then_who_was_asked() -> None:
    assert Answer(200, "lb1\nrs2").names == ["lb1", "rs2"]
    assert Answer(200, "rs2").server == "rs2"
    assert Answer(0, "").server == ""


def test_a_mac_address_is_that_of_a_node() -> None:
    plan = plan_of(NAT)
    found = mac_to_node(plan.nodes)
    assert {found[interface.mac] for interface in plan.node("lvs").interfaces} == {"lvs"}
    assert len(found) == sum(len(node.interfaces) for node in plan.nodes)


# ---- Whom to suspect ------------------------------------------------------------------------------------


class Scripted(Observer):
    """Observes nothing: gets this answer to each request, and hears this from each node."""

    def __init__(self, text: str, answer: Answer, says: str = "active") -> None:
        super().__init__(cast("Lab", SimpleNamespace(plan=plan_of(text), directory=Path())))
        self.answer = answer
        self.heard = says

    def sample(self, *_: object, **__: object) -> list[Answer]:  # type: ignore[override]
        """See Observer."""
        return [self.answer]

    def says(self, node: str, command: str) -> str:  # noqa: ARG002
        """See Observer."""
        return self.heard

    def blame(self, message: str, *suspects: tuple[str, str]) -> NoReturn:
        """See Observer."""
        raise AssertionError(message, [kind for _, kind in suspects])


ONE = """\
title: A machine by itself
networks:
  lan: { subnet: 10.10.10.0/24, host: 10.10.10.1 }
nodes:
  web: { lan: 10.10.10.11 }
"""


def test_a_node_is_asked_by_a_client_or_another_one_or_by_itself() -> None:
    assert Scripted(ONE, Answer(0, "")).neighbour("web") == "web"
    two = ONE + "  db: { lan: 10.10.10.12 }\n"
    assert Scripted(two, Answer(0, "")).neighbour("web") == "db"
    assert Scripted(two + "  client: { lan: 10.10.10.13 }\n", Answer(0, "")).neighbour("web") == "client"
    assert Scripted(two + "  client: { lan: 10.10.10.13 }\n", Answer(0, "")).neighbour("client") == "web"


TWO_PORTS = NAT + "  apache-2: { type: httpd, nodes: [rs1], port: 8080 }\n"


def test_a_port_is_served_by_steps_of_its_own_and_by_those_it_shares() -> None:
    observer = Scripted(TWO_PORTS, Answer(200, "rs1"))
    assert [step.name for step in observer.serving("rs1", 8080)] == ["page", "httpd", "port"]
    assert [step.name for step in observer.serving("rs2", 80)] == ["page", "httpd"]
    assert observer.serving("rs2", 8080) == []


@pytest.mark.parametrize(("port", "answer", "says", "suspects"), [
    (80, Answer(0, ""), "inactive", ["httpd/httpd"]),
    (8080, Answer(0, ""), "active", ["httpd/port"]),
    (80, Answer(200, "Welcome"), "active", ["httpd/page"]),
    (80, Answer(403, "rs1"), "active", ["httpd/page"]),
])
def test_a_web_server_is_not_well_because_of(port: int, answer: Answer, says: str, suspects: list[str]) -> None:
    with pytest.raises(AssertionError) as caught:
        must_be_well("rs1", port, Scripted(TWO_PORTS, answer, says), message="No.")
    assert caught.value.args == ("No.", suspects)


def test_a_web_server_is_well_with_its_own_page_or_where_it_has_none() -> None:
    must_be_well("rs1", 80, Scripted(TWO_PORTS, Answer(200, "rs1")))
    must_be_well("lb1", 80, Scripted(HAPROXY, Answer(200, "rs1")))
    with pytest.raises(AssertionError, match="answers with HTTP status 503"):
        must_be_well("lb1", 80, Scripted(HAPROXY, Answer(503, "")))


def test_answers_are_told_by_how_often_which() -> None:
    assert told([Answer(200, "ngx1 rs2"), Answer(421, "<html>"), Answer(200, "ngx1 rs2")]) == \
        "2 × 'ngx1 rs2', 1 × HTTP status 421"
    assert told([Answer(0, "")]) == "1 × no answer"
    assert told([]) == "no answer"
