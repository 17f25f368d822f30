"""Frames, composed by dpkt."""

from ipaddress import IPv4Address
from typing import Any

import dpkt

FLAGS = {"SYN": dpkt.tcp.TH_SYN, "ACK": dpkt.tcp.TH_ACK, "RST": dpkt.tcp.TH_RST, "FIN": dpkt.tcp.TH_FIN,
         "PSH": dpkt.tcp.TH_PUSH}


def ethernet(source: str, target: str, inside: Any) -> bytes:
    """A frame from one MAC address to another."""
    kind = dpkt.ethernet.ETH_TYPE_ARP if isinstance(inside, dpkt.arp.ARP) else dpkt.ethernet.ETH_TYPE_IP
    return bytes(dpkt.ethernet.Ethernet(src=mac(source), dst=mac(target), type=kind, data=inside))


def ip(source: str, target: str, protocol: int, inside: Any, ttl: int = 64) -> Any:
    """A packet from one address to another."""
    return dpkt.ip.IP(src=IPv4Address(source).packed, dst=IPv4Address(target).packed, p=protocol, ttl=ttl,
                      data=inside)


def tcp(source: str, target: str, flags: str, payload: bytes = b"", *, ttl: int = 64, seq: int = 1, ack: int = 0,
        tunnel: tuple[str, str] | None = None) -> Any:
    """A segment from ADDRESS:PORT to another, perhaps in a tunnel."""
    (here, port), (there, there_port) = source.split(":"), target.split(":")
    segment = dpkt.tcp.TCP(sport=int(port), dport=int(there_port), seq=seq, ack=ack, data=payload,
                           flags=sum(FLAGS[flag] for flag in flags.split()))
    packet = ip(here, there, dpkt.ip.IP_PROTO_TCP, segment, ttl)
    return ip(*tunnel, dpkt.ip.IP_PROTO_IPIP, packet, ttl) if tunnel else packet


def arp(sender: str, address: str, wanted: str, *, reply: bool = False) -> Any:
    """The question who has an address, or the answer to it: the sender has `address`."""
    return dpkt.arp.ARP(op=2 if reply else 1, sha=mac(sender), spa=IPv4Address(address).packed,
                        tha=bytes(6), tpa=IPv4Address(wanted).packed)


def unreachable(source: str, target: str, code: int, about: Any, kind: int = 3) -> Any:
    """An ICMP error about a packet, of which it quotes the header and eight bytes."""
    quoted = bytes(about)[:28]
    return ip(source, target, dpkt.ip.IP_PROTO_ICMP, bytes([kind, code]) + bytes(6) + quoted)


def mac(text: str) -> bytes:
    """A MAC address as bytes."""
    return bytes.fromhex(text.replace(":", ""))
