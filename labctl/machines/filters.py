"""What a room keeps from passing between the ports of its bridges: nftables rules. Pure.

A rule is about frames that a bridge forwards from one machine to another. What goes between a machine and the physical
machine is not forwarded, so labctl's own way in stays open.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from labctl.base.errors import LabError
from labctl.base.suggest import did_you_mean

_TABLE = "table bridge labctl"
_PORT = re.compile(r"(tcp|udp)/([0-9]{1,5})")
PROTOCOLS = {
    "arp": ("ether type arp",),
    "icmp": ("ip protocol icmp",),
    "tcp": ("ip protocol tcp",),
    "udp": ("ip protocol udp",),
    "vrrp": ("ip protocol 112",),
    "ipip": ("ip protocol 4",),
    "heartbeat": ("udp dport 694",),
    "ntp": ("udp dport 123", "udp sport 123"),
    "http": ("tcp dport 80", "tcp sport 80"),
}
"""Names of what can be kept from passing, and what that looks like to nftables (nft(8))."""


class Drop(NamedTuple):
    """Frames that get lost: from some ports to some, where none are given from or to any, and of any kind."""

    sources: Sequence[str] = ()
    targets: Sequence[str] = ()
    match: str = ""


def matches(protocol: str) -> tuple[str, ...]:
    """What frames of a protocol, or from and to a port such as `tcp/8080`, look like. Raises LabError."""
    port = _PORT.fullmatch(protocol)
    if port and 0 < int(port[2]) < 2**16:
        return f"{port[1]} dport {port[2]}", f"{port[1]} sport {port[2]}"
    if protocol not in PROTOCOLS:
        raise LabError(f"'{protocol}' is no protocol that can be blocked.",
                       hint=f"{did_you_mean(protocol, PROTOCOLS)} A port is written as 'tcp/8080' or 'udp/53'.")
    return PROTOCOLS[protocol]


def ruleset(drops: Sequence[Drop]) -> str:
    """What nft(8) has to read so that these frames get lost and no others; it takes all of it or nothing."""
    lines = [_TABLE, f"delete {_TABLE}"]  # The first line makes sure that there is one to be deleted.
    if drops:
        rules = "\n".join(f"    {_rule(drop)}" for drop in drops)
        lines += [f"{_TABLE} {{", "  chain lost {", "    type filter hook forward priority filter; policy accept;",
                  rules, "  }", "}"]
    return "\n".join(lines) + "\n"


def _rule(drop: Drop) -> str:
    parts = [*([f"iifname {_set(drop.sources)}"] if drop.sources else []),
             *([f"oifname {_set(drop.targets)}"] if drop.targets else []), *([drop.match] if drop.match else [])]
    return " ".join([*parts, "drop"])


def _set(ports: Sequence[str]) -> str:
    return "{ " + ", ".join(f'"{port}"' for port in ports) + " }"
