"""labctl.observe.trace, hops and whynot: composed frames of each way of balancing, and of what goes wrong."""

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any
from xml.etree import ElementTree as ET

import frames
import pytest

from labctl.cli import way
from labctl.language import catalog
from labctl.observe import follow, sequence, whynot
from labctl.observe.capture import Captured
from labctl.observe.hops import Hop, Trace, Trouble, hops
from labctl.observe.trace import Exchange, Wires
from labctl.observe.whynot import Facts
from labctl.plan import guests, plan
from labctl.plan.plan import Plan

PORT = 20_000
TOKEN = "0123456789abcdef"
GET = f"GET / HTTP/1.1\r\nHost: x\r\nX-Labctl-Trace: {TOKEN}\r\n\r\n".encode()
OK = b"HTTP/1.1 200 OK\r\n\r\nrs1"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
WELL = Facts(has_address=True, listens=True, route="10.10.10.50 dev eth0", forwards=True, filters=(), table="",
             reverse_filter=False)


class Story:
    """What is captured while packets cross a lab, one after the other."""

    def __init__(self, lab: str) -> None:
        self.plan: Plan = plan.make(catalog.load(catalog.find(lab)), lab, guests.load("debian-12"))
        self.seen: list[Captured] = []
        self._now = 1_700_000_000.0

    def mac(self, node: str, network: str) -> str:
        return next(each.mac for each in self.plan.node(node).interfaces if each.network == network)

    def crosses(self, network: str, sender: str, receiver: str, packet: Any, *, lost: bool = False) -> None:
        """A packet goes from one node to another, or to a MAC address that is nobody's."""
        known = receiver in {node.name for node in self.plan.nodes}
        frame = frames.ethernet(self.mac(sender, network), self.mac(receiver, network) if known else receiver, packet)
        reached = [] if lost else [receiver] if known else [
            node.name for node in self.plan.nodes if node.name != sender
            and network in {each.network for each in node.interfaces}]
        for node in [sender, *reached]:
            self.seen.append(Captured(self._now, f"{node}:{network}", frame))
            self._now += 0.0005

    def exchange(self) -> Exchange:
        return self.wires().exchange("client", PORT, TOKEN.encode(), follow.proxied(self.plan))

    def wires(self) -> Wires:
        # The points' frames come one point after the other.
        return Wires(self.plan, [follow.sighting(each) for each in sorted(self.seen, key=lambda each: each.point)])

    def hops(self) -> list[Hop]:
        return hops(self.exchange(), self.plan)

    def trouble(self, facts: Facts | None = WELL, status: int = 0, address: str = "10.10.10.100",
                **states: str) -> Trouble | None:
        known = {node.name: "running" for node in self.plan.nodes} | states
        return whynot.trouble(self.wires(), self.exchange(), IPv4Address(address), "client", status, known, facts)

    def reasons(self, facts: Facts | None = WELL, **more: Any) -> list[tuple[str, str | None]]:
        found = self.trouble(facts, **more)
        assert found
        return [(reason.text, reason.step) for reason in found.reasons]


def way_of(found: list[Hop]) -> list[tuple[str, str | None]]:
    return [(hop.sender, hop.receiver) for hop in found]


def rewritten(found: list[Hop]) -> dict[str, tuple[str, ...]]:
    return {f"{hop.direction} {hop.sender}": hop.note.rewritten for hop in found if hop.note and hop.note.rewritten}


def steps(found: list[Hop]) -> list[str | None]:
    return [hop.note.step if hop.note else None for hop in found]


def direct(packet: Callable[..., Any] = frames.tcp) -> Story:
    """A request by direct routing, up to the real server."""
    story = Story("lvs-dr")
    ask = packet(f"10.10.10.50:{PORT}", "10.10.10.100:80", "PSH ACK", GET)
    story.crosses("lan", "client", "lvs", ask)
    story.crosses("lan", "lvs", "rs1", ask)
    return story


def test_direct_routing() -> None:
    story = direct()
    story.crosses("lan", "rs1", "client", frames.tcp("10.10.10.100:80", f"10.10.10.50:{PORT}", "PSH ACK", OK))
    found = story.hops()
    assert way_of(found) == [("client", "lvs"), ("lvs", "rs1"), ("rs1", "client")]
    assert rewritten(found) == {"request lvs": ("destination MAC only",)}
    assert steps(found) == [None, "lvs/rules", "rs1/vip-lo"]
    assert [hop.carries for hop in found] == ["GET / HTTP/1.1", "GET / HTTP/1.1", "HTTP/1.1 200 OK"]
    assert [hop.milliseconds for hop in found] == [0, 1, 2]
    assert story.trouble(status=200) is None


def test_first_packet_of_a_connection_is_not_what_is_followed() -> None:
    story = Story("lvs-dr")
    syn = frames.tcp(f"10.10.10.50:{PORT}", "10.10.10.100:80", "SYN", seq=0)
    for sender, receiver in (("client", "lvs"), ("lvs", "rs1")):
        story.crosses("lan", sender, receiver, syn)
    story.seen += [Captured(each.time + 1, *each[1:]) for each in direct().seen]
    assert [hop.carries for hop in story.hops()] == ["GET / HTTP/1.1"] * 2


def test_repeated_packets_are_one_hop() -> None:
    story = Story("lvs-dr")
    syn = frames.tcp(f"10.10.10.50:{PORT}", "10.10.10.100:80", "SYN")
    for _ in range(2):
        for sender, receiver in (("client", "lvs"), ("lvs", "rs1")):
            story.crosses("lan", sender, receiver, syn)
    assert way_of(story.hops()) == [("client", "lvs"), ("lvs", "rs1")]


def test_nat() -> None:
    story = Story("lvs-nat")
    story.crosses("outer", "client", "lvs", frames.tcp(f"20.20.20.50:{PORT}", "20.20.20.11:80", "PSH ACK", GET))
    story.crosses("lan", "lvs", "rs1", frames.tcp(f"20.20.20.50:{PORT}", "10.10.10.12:80", "PSH ACK", GET, ttl=63))
    story.crosses("lan", "rs1", "lvs", frames.tcp("10.10.10.12:80", f"20.20.20.50:{PORT}", "PSH ACK", OK))
    story.crosses("outer", "lvs", "client", frames.tcp("20.20.20.11:80", f"20.20.20.50:{PORT}", "PSH ACK", OK, ttl=63))
    found = story.hops()
    assert way_of(found) == [("client", "lvs"), ("lvs", "rs1"), ("rs1", "lvs"), ("lvs", "client")]
    assert rewritten(found) == {
        "request lvs": ("destination address 20.20.20.11:80 > 10.10.10.12:80", "TTL 64 > 63"),
        "answer lvs": ("source address 10.10.10.12:80 > 20.20.20.11:80", "TTL 64 > 63")}
    assert steps(found) == [None, "lvs/rules.web", "rs1/gateway", "lvs/rules.web"]
    assert story.trouble(status=200) is None


def test_tunnel_through_a_router() -> None:
    story = Story("lvs-tun")
    story.crosses("lan", "client", "lvs", frames.tcp(f"10.10.10.50:{PORT}", "10.10.10.100:80", "PSH ACK", GET))
    for network, sender, receiver, ttl in (("lan", "lvs", "router", 63), ("far", "router", "rs1", 62)):
        story.crosses(network, sender, receiver, frames.tcp(
            f"10.10.10.50:{PORT}", "10.10.10.100:80", "PSH ACK", GET, ttl=ttl, tunnel=("10.10.10.11", "20.20.20.12")))
    back = frames.tcp("10.10.10.100:80", f"10.10.10.50:{PORT}", "PSH ACK", OK)
    story.crosses("far", "rs1", "router", back)
    routed = frames.tcp("10.10.10.100:80", f"10.10.10.50:{PORT}", "PSH ACK", OK, ttl=63)
    story.crosses("lan", "router", "client", routed)
    found = story.hops()
    assert way_of(found) == [("client", "lvs"), ("lvs", "router"), ("router", "rs1"), ("rs1", "router"),
                             ("router", "client")]
    assert rewritten(found) == {
        "request lvs": ("wrapped in another packet, 10.10.10.11 > 20.20.20.12", "TTL 64 > 63"),
        "request router": ("MAC addresses", "TTL 63 > 62"), "answer router": ("MAC addresses", "TTL 64 > 63")}
    assert steps(found) == [None, "lvs/rules", "router/forward", "rs1/vip-tunl", "router/forward"]
    assert [hop.tunnel for hop in found] == [None, *[("10.10.10.11", "20.20.20.12")] * 2, None, None]


def proxied(answer: bytes = OK) -> Story:
    """A request to nginx behind LVS, which asks httpd; a check of another server's is under way, too."""
    story = Story("multi-tier")
    ask = frames.tcp(f"10.10.10.50:{PORT}", "10.10.10.100:80", "PSH ACK", GET)
    story.crosses("lan", "client", "lvs", ask)
    story.crosses("lan", "lvs", "ngx1", ask)
    story.crosses("lan", "lvs", "ngx2", frames.tcp("10.10.10.11:33000", "10.10.10.13:80", "PSH ACK", b"GET / HTTP/1.0"))
    story.crosses("lan", "ngx1", "rs2", frames.tcp("10.10.10.12:44000", "10.10.10.15:80", "SYN", seq=9))
    if answer:
        story.crosses("lan", "ngx1", "rs2", frames.tcp("10.10.10.12:44000", "10.10.10.15:80", "PSH ACK", GET, seq=10))
        story.crosses("lan", "rs2", "ngx1", frames.tcp("10.10.10.15:80", "10.10.10.12:44000", "PSH ACK", answer))
    return story


def test_proxy_has_a_connection_of_its_own() -> None:
    story = proxied()
    story.crosses("lan", "ngx1", "client", frames.tcp("10.10.10.100:80", f"10.10.10.50:{PORT}", "PSH ACK", OK))
    found = story.hops()
    assert [(hop.connection, hop.direction, hop.sender, hop.receiver) for hop in found] == [
        (1, "request", "client", "lvs"), (1, "request", "lvs", "ngx1"), (2, "request", "ngx1", "rs2"),
        (2, "answer", "rs2", "ngx1"), (1, "answer", "ngx1", "client")]
    assert steps(found) == [None, "lvs/keepalived", "ngx1/vhosts", None, "ngx1/vhosts"]
    assert story.trouble(status=200) is None


def test_server_behind_a_proxy_that_is_silent() -> None:
    story = proxied(answer=b"")
    story.crosses("lan", "ngx1", "client", frames.tcp("10.10.10.100:80", f"10.10.10.50:{PORT}", "PSH ACK",
                                                      b"HTTP/1.1 504 Gateway Time-out\r\n\r\n"))
    found = story.trouble(status=504)
    assert found
    assert found.message == "'rs2' received the request and did not answer."


# ---- What goes wrong ---------------------------------------------------------------------------------------------


def test_address_is_missing() -> None:
    story = direct()
    facts = Facts(False, True, "via eth0", False, (), "", False)
    found = story.trouble(facts)
    assert found
    assert found.message == "'rs1' received the request and did not answer."
    assert story.reasons(facts) == [("it has no address 10.10.10.100", "rs1/vip-lo")]


@pytest.mark.parametrize(("facts", "reason"), [
    (None, "it does not answer SSH either"), (WELL, "its program has not answered in time"),
    (Facts(True, True, "", True, (), "", False), "it has no route to 10.10.10.50"),
    (Facts(True, True, "r", True, ["-A INPUT -p tcp -j DROP"], "", False), "the rule '-A INPUT -p tcp -j DROP'")])
def test_server_is_silent(facts: Facts | None, reason: str) -> None:
    (text, _), = direct().reasons(facts)
    assert reason in text


@pytest.mark.parametrize("client_first", [True, False])
def test_hanging_up_is_an_answer_unless_the_client_did_so_first(client_first: bool) -> None:
    story = direct()
    if client_first:
        for sender, receiver in (("client", "lvs"), ("lvs", "rs1")):
            closing = frames.tcp(f"10.10.10.50:{PORT}", "10.10.10.100:80", "FIN ACK", seq=9)
            story.crosses("lan", sender, receiver, closing)
    story.crosses("lan", "rs1", "client", frames.tcp("10.10.10.100:80", f"10.10.10.50:{PORT}", "FIN ACK"))
    assert bool(story.exchange().answer) == (not client_first)
    found = story.trouble()
    assert found
    assert found.message == ("'rs1' received the request and did not answer." if client_first else
                             "'rs1' hangs up without an answer.")


def test_nobody_listens() -> None:
    story = direct()
    story.crosses("lan", "rs1", "client", frames.tcp("10.10.10.100:80", f"10.10.10.50:{PORT}", "RST ACK"))
    found = story.trouble(Facts(True, False, "r", True, (), "", False))
    assert found
    assert found.message == "'rs1' refuses the connection to 10.10.10.100:80."
    assert [(reason.text, reason.step) for reason in found.reasons] == [("nobody listens there", "rs1/httpd")]


def test_table_is_empty() -> None:
    story = Story("lvs-dr")
    story.crosses("lan", "client", "lvs", frames.tcp(f"10.10.10.50:{PORT}", "10.10.10.100:80", "SYN"))
    table = "IP Virtual Server\n  -> RemoteAddress:Port Forward\nTCP 10.10.10.100:80 rr\n"
    assert story.reasons(Facts(True, False, "r", True, (), table, False)) == [
        ("its IPVS table has no real server for 10.10.10.100:80", "lvs/rules")]
    story.crosses("lan", "lvs", "client", frames.tcp("10.10.10.100:80", f"10.10.10.50:{PORT}", "RST ACK"))
    (text, step), = story.reasons()
    assert (text.partition(",")[0], step) == ("its IPVS table has nothing for 10.10.10.100:80", "lvs/rules")


def test_nobody_answers_arp() -> None:
    story = Story("lvs-dr")
    story.crosses("lan", "client", EVERYBODY, frames.arp(story.mac("client", "lan"), "10.10.10.50", "10.10.10.100"))
    found = story.trouble()
    assert found
    assert found.message == "'client' asks by ARP who has 10.10.10.100, and nobody answers."
    assert [reason.step for reason in found.reasons] == ["lvs/vip"]


def test_director_finds_no_server() -> None:
    story = Story("lvs-dr")
    story.crosses("lan", "client", "lvs", frames.tcp(f"10.10.10.50:{PORT}", "10.10.10.100:80", "SYN"))
    story.crosses("lan", "lvs", EVERYBODY, frames.arp(story.mac("lvs", "lan"), "10.10.10.11", "10.10.10.12"))
    story.crosses("lan", "lvs", "client", frames.unreachable(
        "10.10.10.11", "10.10.10.50", 1, frames.tcp(f"10.10.10.50:{PORT}", "10.10.10.100:80", "SYN")))
    table = "  -> RemoteAddress:Port Forward\nTCP 10.10.10.100:80 rr\n  -> 10.10.10.12:80 Route 1"
    assert [text for text, _ in story.reasons(Facts(True, False, "r", True, (), table, False))] == [
        "'lvs' says by ICMP: host unreachable",
        "it asks by ARP who has 10.10.10.12, and nobody answers: 'rs1' is off or unplugged, or stands still"]


def test_two_answer_arp() -> None:
    story = Story("lvs-dr")
    for node in ("lvs", "rs1"):
        story.crosses("lan", node, "client", frames.arp(story.mac(node, "lan"), "10.10.10.100", "10.10.10.50",
                                                        reply=True))
    assert follow.remarks(story.wires()) == [
        "'lvs' and 'rs1' both answer ARP requests for 10.10.10.100: clients choose one of them by chance."]
    assert follow.remarks(direct().wires()) == []


def test_lost_on_the_wire() -> None:
    story = Story("lvs-dr")
    story.crosses("lan", "client", "lvs", frames.tcp(f"10.10.10.50:{PORT}", "10.10.10.100:80", "SYN"), lost=True)
    found = story.trouble()
    assert found
    assert found.message == "It left 'client' for 'lvs', and did not arrive there."
    assert "cut" in found.reasons[0].text
    assert story.reasons(lvs="off")[0][0] == "'lvs' is off"


def test_stale_mac() -> None:
    story = Story("lvs-dr")
    ask = frames.tcp(f"10.10.10.50:{PORT}", "10.10.10.100:80", "SYN")
    story.crosses("lan", "client", "52:54:00:ff:ff:ff", ask, lost=True)
    found = story.trouble()
    assert found
    assert "52:54:00:ff:ff:ff, which is no node's" in found.message


def test_nat_answer_that_does_not_pass_the_director() -> None:
    story = Story("lvs-nat")
    story.crosses("outer", "client", "lvs", frames.tcp(f"20.20.20.50:{PORT}", "20.20.20.11:80", "SYN"))
    story.crosses("lan", "lvs", "rs1", frames.tcp(f"20.20.20.50:{PORT}", "10.10.10.12:80", "SYN", ttl=63))
    facts = Facts(True, True, "", False, (), "", False)
    assert story.reasons(facts) == [("it has no route back through 10.10.10.11, the director", "rs1/gateway")]
    story.crosses("lan", "rs1", "lvs", frames.tcp("10.10.10.12:80", f"20.20.20.50:{PORT}", "SYN ACK"))
    found = story.trouble(Facts(False, True, "r", False, (), "", False))
    assert found
    assert found.message == "'lvs' received the answer and did not pass it on."
    assert [(reason.text, reason.step) for reason in found.reasons] == [
        ("it passes on nothing that is not for itself: ip_forward is 0", "lvs/forward")]


def test_answer_from_a_stranger() -> None:
    story = direct()
    story.crosses("lan", "rs1", "client", frames.tcp("10.10.10.12:80", f"10.10.10.50:{PORT}", "SYN ACK"))
    assert not story.exchange().came_back, "it is no answer to this connection"


def test_packet_that_goes_round_ends() -> None:
    story = Story("lvs-tun")
    for ttl in range(64, 54, -1):
        sender, receiver = ("client", "lvs") if ttl == 64 else ("lvs", "router") if ttl % 2 else ("router", "lvs")
        story.crosses("lan", sender, receiver, frames.tcp(f"10.10.10.50:{PORT}", "10.10.10.100:80", "SYN", ttl=ttl))
    assert len(story.hops()) == 10


def test_facts_are_read_from_what_a_node_says() -> None:
    story = direct()
    packet = story.wires().arrived[-1].packet
    script = whynot.questions(packet, story.plan)
    assert script.count("== part") == 6
    said = "\n== part\n".join(["2: lo inet 10.10.10.100/32", "LISTEN 0 511 *:80", "10.10.10.50 dev eth0 src x\n cache",
                               "1", "-P INPUT DROP\n", "table", "0\n2\n"])
    assert whynot.facts(said) == Facts(True, True, "10.10.10.50 dev eth0 src x", True, ["-P INPUT DROP"], "table", True)
    assert whynot.facts("") == Facts(False, False, "", False, [], "", False)


# ---- What people see ---------------------------------------------------------------------------------------------


def traced(story: Story, status: int = 200, trouble: Trouble | None = None) -> Trace:
    return Trace(lab=story.plan.lab, url="http://10.10.10.100/", client="client", status=status, milliseconds=2.0,
                 hops=tuple(story.hops()), trouble=trouble)


def test_text_fits_into_80_columns() -> None:
    said = list(way.lines(traced(proxied())))
    assert all(len(line) <= 80 for line in said)
    assert "request, connection 2: GET / HTTP/1.1" in said
    story = direct()
    broken = list(way.lines(traced(story, 0, story.trouble(Facts(False, True, "r", True, (), "", False)))))
    assert broken[-1] == "  - it has no address 10.10.10.100 ('labctl apply lvs-dr/rs1/vip-lo')"


def test_picture_has_all_nodes_and_survives_odd_names() -> None:
    drawn = sequence.svg(traced(proxied()).model_copy(update={"url": "http://10.10.10.100/?<&>"}))
    root = ET.fromstring(drawn)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"client", "lvs", "ngx1", "rs2", "ngx1/vhosts"} <= set(texts)
    assert len([element for element in root.iter() if element.get("marker-end")]) == len(proxied().hops())
    assert "prefers-color-scheme: dark" in drawn


@pytest.mark.parametrize(("lab", "url", "expected"), [
    ("lvs-dr", None, ("http://10.10.10.100/", "10.10.10.100", 80)),
    ("lvs-dr", "10.10.10.100:8080/x", ("http://10.10.10.100:8080/x", "10.10.10.100", 8080)),
    ("lvs-dr", "http://rs1/", ("http://rs1/", "10.10.10.12", 80)),
    ("lvs-nat", "http://lvs/", ("http://lvs/", "20.20.20.11", 80)),
    ("multi-tier", "http://www.demo2.com/", ("http://www.demo2.com/", "10.10.10.100", 80)),
    ("multi-tier", None, ("http://www.demo1.com/", "10.10.10.100", 80))])
def test_targets(lab: str, url: str | None, expected: tuple[str, str, int]) -> None:
    found = follow.target(Story(lab).plan, url)
    assert (found.url, str(found.address), found.port) == expected
