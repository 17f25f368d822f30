"""labctl.observe.events: what nodes tell of an election and of the table."""

import json
from ipaddress import IPv4Address

from labctl.observe.clock import Clock
from labctl.observe.events import FOUND, LOST, Event, Heard, events, has_now, holdings
from labctl.observe.outage import Stretch

VIP = IPv4Address("10.10.10.100")
NAMES = {IPv4Address("10.10.10.12"): "rs1", IPv4Address("10.10.10.13"): "rs2"}
RS1, RS2 = "TCP:0A0A0A64:0050>0A0A0A0C:0050", "TCP:0A0A0A64:0050>0A0A0A0D:0050"


def told(*lines: str, node: str = "lvs-m") -> list[tuple[float, str]]:
    clock = Clock()
    clock.answered(100, 100, 0)
    heard: list[Heard] = [(200.0, line) for line in lines]
    return [(event.at, event.text) for event in events(node, heard, clock, 100, NAMES)]


def log(message: str, moment: float = 1.0) -> str:
    entry = json.dumps({"MESSAGE": message, "__MONOTONIC_TIMESTAMP": str(int(moment * 1e6))})
    return f"log 9.9 {entry.encode('unicode_escape').decode()}"


def test_an_address_comes_and_goes() -> None:
    assert told("address 1.0000 gained 10.10.10.100", "address 2.5 lost 10.10.10.100") == [
        (1, "has 10.10.10.100"), (2.5, "loses 10.10.10.100")]


def test_both_versions_of_keepalived_say_what_they_are() -> None:
    assert told(log("(web) Entering MASTER STATE")) == [(1, "is MASTER")]
    assert told(log("VRRP_Instance(web) Transition to MASTER STATE"), log("VRRP_Instance(web) Entering FAULT STATE", 2)
                ) == [(1, "is MASTER"), (2, "is FAULT")]
    assert told(log("(web) Backup received priority 0 advertisement")) == [(1, "hears that the other leaves")]
    assert told(log("Opening file '/etc/keepalived/keepalived.conf'.")) == []


def test_heartbeat_says_who_is_dead_and_who_takes_over() -> None:
    taking = "Acquiring resource group: d1 IPaddr2::10.10.10.100/24/eth0"
    assert told(log("WARN: node d1: is dead"), log(taking, 2)) == [(1, "d1 is dead"), (2, "takes the address")]


def test_the_table_is_told_by_what_changes_in_it() -> None:
    assert told(f"table 1 {RS1}=1,{RS2}=1", f"table 2 {RS2}=1", f"table 3 {RS1}=1,{RS2}=0", "table 4 -") == [
        (2, "rs1 left the table"), (3, "rs2 has weight 0, before 1"), (3, "rs1 is in the table"),
        (4, "rs1 left the table"), (4, "rs2 left the table")]


def test_a_node_that_booted_has_a_table_of_its_own() -> None:
    assert told(f"table 1 {RS1}=1", LOST, FOUND, "table 2 -") == [(100, "answers no more"), (100, "answers")]


def test_whatever_else_a_guest_says_is_left_out() -> None:
    assert told("address", "address x gained 10.10.10.100", "address 1 gained x", "address 1 eats 10.10.10.100",
                "log 1 {", "log 1 []", "log 1 {}", 'log 1 {"MESSAGE": "(web) Entering MASTER STATE"}', "table",
                "table x -", "\x1b[2J", "") == []


def vip(at: float, node: str, has: bool, *, late: bool = False) -> Event:
    return Event(at=at, node=node, kind="vip", text="", address=VIP, has=has, late=late)


def gone(at: float, node: str) -> Event:
    return Event(at=at, node=node, kind="node", text="", has=False)


def test_an_address_is_held_until_it_is_lost_or_its_holder_is_switched_off() -> None:
    seen = [vip(-3, "lvs-m", True), gone(1.2, "lvs-m"), vip(3.5, "lvs-s", True), vip(20, "lvs-m", True),
            vip(20.1, "lvs-s", False)]
    off = [Stretch(who="lvs-m", start=0, end=15)]
    assert holdings(seen, VIP, -2, 25, off) == [
        Stretch(who="lvs-m", start=-2, end=0), Stretch(who="lvs-s", start=3.5, end=20.1),
        Stretch(who="lvs-m", start=20, end=25)]


def test_who_has_an_address_now_is_who_said_so_last() -> None:
    back = Event(at=4, node="lvs-m", kind="node", text="answers", has=True)
    assert has_now([vip(1, "lvs-m", True), vip(2, "lvs-s", True), vip(3, "lvs-s", False), back], VIP) == {
        "lvs-m": True, "lvs-s": False}
    assert has_now([vip(1, "lvs-m", True), gone(2, "lvs-m"), back], VIP) == {"lvs-m": False}


def test_an_address_that_a_node_says_twice_that_it_has_is_held_once() -> None:
    assert holdings([vip(0, "lvs-m", True), vip(1, "lvs-m", True)], VIP, -2, 5) == [
        Stretch(who="lvs-m", start=0, end=5)]
    assert holdings([vip(0, "lvs-m", False)], VIP, -2, 5) == []


def test_what_is_told_again_over_another_connection_happened_once() -> None:
    again = log("(web) Entering MASTER STATE", 1.05)
    assert told(log("(web) Entering MASTER STATE"), LOST, FOUND, again) == [
        (1, "is MASTER"), (100, "answers no more"), (100, "answers")]


def test_an_address_that_was_lost_is_not_held_since_it_was_taken_before() -> None:
    seen = [Event(at=-9, node="lvs-m", kind="vrrp", text="is MASTER"), vip(-2, "lvs-m", True), gone(0.2, "lvs-m"),
            vip(9, "lvs-m", True, late=True)]
    assert holdings(seen, VIP, -2, 12) == [Stretch(who="lvs-m", start=-2, end=0.2),
                                           Stretch(who="lvs-m", start=9, end=12)]


def test_an_address_that_a_node_had_when_it_was_asked_is_held_since_it_said_so() -> None:
    seen = [vip(3, "lvs-m", True, late=True), Event(at=1.5, node="lvs-m", kind="vrrp", text="is MASTER")]
    assert holdings(seen, VIP, -2, 5) == [Stretch(who="lvs-m", start=1.5, end=5)]
    assert holdings(seen[:1], VIP, -2, 5) == [Stretch(who="lvs-m", start=3, end=5)]
    assert told("address 1.0000 has 10.10.10.100") == [(1, "has 10.10.10.100")]
