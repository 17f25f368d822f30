"""labctl.observe.packet: composed frames are parsed, and said in a line."""

from ipaddress import IPv4Address

import frames
from hypothesis import given
from hypothesis import strategies as st

from labctl.observe.packet import line, parse, request_line

CLIENT, LVS = "52:54:00:00:00:50", "52:54:00:00:00:11"
NAMES = {CLIENT: "client", LVS: "lvs"}
GET = b"GET / HTTP/1.1\r\nHost: 10.10.10.100\r\n\r\n"


def test_segment() -> None:
    packet = parse(frames.ethernet(CLIENT, LVS, frames.tcp("10.10.10.50:4711", "10.10.10.100:80", "SYN", seq=7)))
    assert (packet.source_mac, packet.target_mac) == (CLIENT, LVS)
    assert packet.connection == (IPv4Address("10.10.10.50"), 4711, IPv4Address("10.10.10.100"), 80)
    assert (packet.flags, packet.seq, packet.ttl, packet.tunnel) == ({"SYN"}, 7, 64, None)


def test_segment_in_a_tunnel() -> None:
    inside = frames.tcp("10.10.10.50:4711", "10.10.10.100:80", "PSH ACK", GET, ttl=63,
                        tunnel=("10.10.10.11", "20.20.20.12"))
    packet = parse(frames.ethernet(CLIENT, LVS, inside))
    assert packet.tunnel == (IPv4Address("10.10.10.11"), IPv4Address("20.20.20.12"))
    assert (packet.target, packet.ttl, packet.payload) == (IPv4Address("10.10.10.100"), 63, GET)


def test_error_quotes_what_it_is_about() -> None:
    about = frames.tcp("10.10.10.50:4711", "10.10.10.100:80", "SYN")
    packet = parse(frames.ethernet(LVS, CLIENT, frames.unreachable("10.10.10.11", "10.10.10.50", 3, about)))
    assert packet.says == "port unreachable"
    assert packet.about
    assert packet.about.connection == (IPv4Address("10.10.10.50"), 4711, IPv4Address("10.10.10.100"), 80)


@given(st.binary(max_size=100))
def test_what_cannot_be_parsed_has_a_protocol(frame: bytes) -> None:
    packet = parse(frame)
    assert packet.protocol
    assert line(packet, NAMES)


def test_lines_have_names() -> None:
    def said(target: str, inside: object) -> str:
        return line(parse(frames.ethernet(CLIENT, target, inside)), NAMES)

    everybody = "ff:ff:ff:ff:ff:ff"
    assert said(everybody, frames.arp(CLIENT, "10.10.10.50", "10.10.10.100")) == \
        "client > all  ARP who has 10.10.10.100?"
    assert said(LVS, frames.arp(LVS, "10.10.10.100", "10.10.10.50", reply=True)) == \
        "client > lvs  ARP 10.10.10.100 is at lvs"
    assert said(everybody, frames.arp(LVS, "10.10.10.100", "10.10.10.100")).endswith("says it to all")
    assert said(LVS, frames.tcp("10.10.10.50:4711", "10.10.10.100:80", "PSH ACK", GET)) == \
        "client > lvs  10.10.10.50:4711 > 10.10.10.100:80 GET / HTTP/1.1"
    assert said(LVS, frames.tcp("10.10.10.50:4711", "10.10.10.100:80", "SYN ACK")).endswith(":80 SYN ACK")
    vrrp = frames.ip("10.10.10.11", "224.0.0.18", 112, bytes.fromhex("21339601000100000a0a0a64"))
    assert said("01:00:5e:00:00:12", vrrp) == \
        "client > group  10.10.10.11 > 224.0.0.18 VRRP id 51, priority 150"


def test_only_http_has_a_first_line() -> None:
    assert request_line(b"HTTP/1.1 200 OK\r\nServer: x") == "HTTP/1.1 200 OK"
    assert request_line(b"\x16\x03\x01GET /") == ""
    assert request_line(b"GET out of here") == ""
