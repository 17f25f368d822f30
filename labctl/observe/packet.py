"""Frames, parsed by dpkt, and each in a line for people. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import dpkt

_PROTOCOLS = {dpkt.ip.IP_PROTO_TCP: "tcp", dpkt.ip.IP_PROTO_UDP: "udp", dpkt.ip.IP_PROTO_ICMP: "icmp",
              dpkt.ip.IP_PROTO_VRRP: "vrrp"}
_FLAGS = {dpkt.tcp.TH_SYN: "SYN", dpkt.tcp.TH_FIN: "FIN", dpkt.tcp.TH_RST: "RST", dpkt.tcp.TH_PUSH: "PSH",
          dpkt.tcp.TH_ACK: "ACK"}
_UNREACHABLE = {0: "network unreachable", 1: "host unreachable", 2: "protocol unreachable", 3: "port unreachable",
                4: "packet too big", 9: "network forbidden", 10: "host forbidden", 13: "forbidden by a filter"}
"""RFC 792 and RFC 1812, section 5.2.7.1."""
_ICMP = {0: "echo reply", 5: "redirect", 8: "echo request", 11: "time to live exceeded"}
_ETHER_TYPES = {0x86DD: "IPv6", 0x88CC: "LLDP"}
HEARTBEAT_PORT = 694
"""UDP; IANA's ha-cluster."""


@dataclass(frozen=True)
class Packet:
    """What was in a frame: of IPv4 the innermost packet, and the addresses of the tunnel around it."""

    source_mac: str
    target_mac: str
    protocol: str
    """tcp, udp, icmp, arp, vrrp; a number or name for others"""
    source: IPv4Address | None = None
    target: IPv4Address | None = None
    source_port: int = 0
    target_port: int = 0
    ttl: int = 0
    """Of the outermost packet, which is the one that routers look at."""
    tunnel: tuple[IPv4Address, IPv4Address] | None = None
    """Source and target of the packet around this one (IP in IP, RFC 2003)."""
    flags: frozenset[str] = frozenset()
    """TCP's, such as SYN and ACK."""
    seq: int = 0
    ack: int = 0
    payload: bytes = b""
    """TCP's"""
    says: str = ""
    """Of ARP `request` or `reply`, of ICMP its meaning, of VRRP its values."""
    about: "Packet | None" = None
    """The packet that an ICMP error is about, as far as it is quoted."""
    claims: str = ""
    """Of ARP the MAC address that the source is said to have."""

    @property
    def connection(self) -> tuple[IPv4Address | None, int, IPv4Address | None, int]:
        """Source and target, with ports."""
        return self.source, self.source_port, self.target, self.target_port


def parse(frame: bytes) -> Packet:
    """What is in an Ethernet frame. What cannot be parsed has a protocol and nothing more."""
    try:
        ethernet = dpkt.ethernet.Ethernet(frame)
    except dpkt.UnpackError:
        return Packet("", "", "broken")
    macs = _mac(ethernet.src), _mac(ethernet.dst)
    inside = ethernet.data
    if isinstance(inside, dpkt.arp.ARP):
        return Packet(*macs, "arp", source=IPv4Address(inside.spa), target=IPv4Address(inside.tpa),
                      claims=_mac(inside.sha),
                      says="request" if inside.op == dpkt.arp.ARP_OP_REQUEST else "reply")
    if isinstance(inside, dpkt.ip.IP):
        return _ip(inside, macs)
    return Packet(*macs, _ETHER_TYPES.get(ethernet.type, f"Ethernet type {ethernet.type:#06x}"))


def _ip(ip: Any, macs: tuple[str, str]) -> Packet:
    tunnel, ttl = None, ip.ttl
    if isinstance(ip.data, dpkt.ip.IP):
        tunnel, ip = (IPv4Address(ip.src), IPv4Address(ip.dst)), ip.data
    found: dict[str, Any] = {"source": IPv4Address(ip.src), "target": IPv4Address(ip.dst), "ttl": ttl,
                             "tunnel": tunnel}
    protocol = _PROTOCOLS.get(ip.p, f"IP protocol {ip.p}")
    inside = ip.data
    match inside:
        case dpkt.tcp.TCP():
            found |= {"source_port": inside.sport, "target_port": inside.dport, "seq": inside.seq, "ack": inside.ack,
                      "flags": frozenset(name for bit, name in _FLAGS.items() if inside.flags & bit),
                      "payload": bytes(inside.data)}
        case dpkt.udp.UDP():
            found |= {"source_port": inside.sport, "target_port": inside.dport}
        case dpkt.icmp.ICMP():
            quoted = getattr(inside.data, "data", None)
            found |= {"says": _UNREACHABLE.get(inside.code, f"unreachable ({inside.code})") if inside.type == 3
                      else _ICMP.get(inside.type, f"type {inside.type}"),
                      "about": _ip(quoted, ("", "")) if isinstance(quoted, dpkt.ip.IP)
                      else None}
        case dpkt.vrrp.VRRP():
            found["says"] = f"id {inside.vrid}, priority {inside.priority}"
        case bytes() if protocol in ("tcp", "udp") and len(inside) >= 4:  # Of a quoted packet that is all.
            found |= {"source_port": int.from_bytes(inside[:2]), "target_port": int.from_bytes(inside[2:4])}
    return Packet(*macs, protocol, **found)


def _mac(address: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in address)


# ---- For people ------------------------------------------------------------------------------------------------


def line(packet: Packet, names: Mapping[str, str]) -> str:
    """A packet in a line, with names in place of the MAC addresses that have one."""
    ways = f"{names.get(packet.source_mac, packet.source_mac)} > {_everybody(packet.target_mac, names)}"
    return f"{ways}  {says(packet, names)}"


def says(packet: Packet, names: Mapping[str, str]) -> str:
    """What a packet says, in a line."""
    if packet.protocol == "arp":
        if packet.source == packet.target:
            return f"ARP {packet.source} is at {names.get(packet.claims, packet.claims)}, says it to all"
        if packet.says == "request":
            return f"ARP who has {packet.target}?"
        return f"ARP {packet.source} is at {names.get(packet.claims, packet.claims)}"
    if packet.source is None:
        return packet.protocol
    around = f"in IP {packet.tunnel[0]} > {packet.tunnel[1]}: " if packet.tunnel else ""
    ports = packet.protocol in ("tcp", "udp")
    source = f"{packet.source}:{packet.source_port}" if ports else f"{packet.source}"
    target = f"{packet.target}:{packet.target_port}" if ports else f"{packet.target}"
    return f"{around}{source} > {target} {summary(packet)}"


def summary(packet: Packet) -> str:
    """What a packet of IP carries, in a few words."""
    match packet.protocol:
        case "tcp":
            return request_line(packet.payload) or " ".join([
                *(flag for flag in _FLAGS.values() if flag in packet.flags and flag != "PSH"),
                *([f"{len(packet.payload)} bytes"] if packet.payload else [])])
        case "udp" if HEARTBEAT_PORT in (packet.source_port, packet.target_port):
            return "heartbeat"
        case "icmp" | "vrrp":
            return f"{packet.protocol.upper()} {packet.says}".strip()
    return packet.protocol.upper() if packet.protocol == "udp" else packet.protocol


def request_line(payload: bytes) -> str:
    """The first line of an HTTP request or answer; empty where it is neither."""
    first = payload[:200].partition(b"\r\n")[0].decode("ascii", "replace")
    verb, _, rest = first.partition(" ")
    is_request = verb in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH") and " HTTP/" in rest
    return first if is_request or verb.startswith("HTTP/") else ""


def _everybody(mac: str, names: Mapping[str, str]) -> str:
    if mac == "ff:ff:ff:ff:ff:ff":
        return "all"
    # Multicast of IPv4 (RFC 1112, section 6.4), of IPv6 (RFC 2464, section 7).
    return "group" if mac.startswith(("01:00:5e", "33:33")) else names.get(mac, mac)
