"""What is wrong with a line: delay, loss and the like; and how a guest's kernel brings it about. Pure.

The kernel's network emulator (tc-netem(8)) works on what an interface sends. What it receives is led through an ifb
device, which sends it to the node itself.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address
from math import prod
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, StringConstraints, model_validator

from labctl.base.types import Model

TIME_PATTERN = r"^[0-9]{1,5}(\.[0-9]{1,3})?(us|ms|s)$"
PERCENT_PATTERN = r"^[0-9]{1,3}(\.[0-9]{1,4})?%$"
RATE_PATTERN = r"^[0-9]{1,5}(\.[0-9]{1,3})?(kbit|mbit|gbit)$"
FORMS = {TIME_PATTERN: "time such as 20ms or 1.5s", PERCENT_PATTERN: "share such as 1% or 0.5%",
         RATE_PATTERN: "rate such as 512kbit or 10mbit"}
"""What values are, in the words of a message: '20' is not a …"""
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "kbit": 1.0, "mbit": 1000.0, "gbit": 1e6, "%": 0.01}
"""In milliseconds, kilobits per second, and parts of one."""
_BANDS = 16
_COMPLAIN = """\
if [ "${failed:-}" ]; then
    if [ ! -d /sys/module/sch_netem ]; then echo "its kernel has no network emulator (sch_netem)." >&2; fi
    exit 1
fi"""


def _share(text: str) -> str:
    if float(text.rstrip("%")) > 100:
        raise ValueError(f"{text} is more than all of it")
    return text


def _rate(text: str) -> str:
    if not _number(text):
        raise ValueError("at this rate nothing would ever arrive")
    return text


Time = Annotated[str, StringConstraints(pattern=TIME_PATTERN)]
Share = Annotated[str, StringConstraints(pattern=PERCENT_PATTERN), AfterValidator(_share)]
Rate = Annotated[str, StringConstraints(pattern=RATE_PATTERN), AfterValidator(_rate)]


class Impair(Model):
    """What a bad line does to each packet, in one direction."""

    delay: Time | None = None
    jitter: Time | None = None
    """By how much the delay varies, in both directions."""
    loss: Share | None = None
    rate: Rate | None = None
    duplicate: Share | None = None
    reorder: Share | None = None
    """The share of packets that are not delayed, and overtake those that are."""
    corrupt: Share | None = None
    """The share of packets with a wrong bit."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "Impair":
        given = self.model_fields_set
        if not given:
            raise ValueError("says nothing; a key such as 'delay: 20ms' is needed")
        for key in ("jitter", "reorder"):
            if key in given and "delay" not in given:
                raise ValueError(f"'{key}' needs a 'delay'")
        return self

    def __str__(self) -> str:
        """As people write it, such as `delay 20ms loss 1%`."""
        return " ".join(f"{key} {value}" for key, value in self if value is not None)


class Line(NamedTuple):
    """Several bad lines one after the other, as one."""

    delay: float = 0
    """ms"""
    jitter: float = 0
    """ms"""
    loss: float = 0
    rate: float = 0
    """kbit/s; 0: as quick as can be"""
    duplicate: float = 0
    reorder: float = 0
    corrupt: float = 0

    def netem(self) -> str:
        """What tc-netem(8) is told; empty where the line is well."""
        words = [f"delay {self.delay:g}ms" + (f" {self.jitter:g}ms" if self.jitter else "")] if self.delay else []
        words += [f"{name} {100 * value:.6g}%" for name, value in (
            ("loss", self.loss), ("duplicate", self.duplicate), ("reorder", self.reorder), ("corrupt", self.corrupt))
            if value]
        return " ".join([*words, *([f"rate {self.rate:g}kbit"] if self.rate else [])])


_WELL = Line()


def in_series(parts: Iterable[Impair]) -> Line:
    """What several impairments come to together: times add up, shares are of what is left, the lowest rate counts."""
    lines = [{key: _number(value) if value else 0.0 for key, value in part} for part in parts]
    rates = [line["rate"] for line in lines if line["rate"]]
    times = {key: sum(line[key] for line in lines) for key in ("delay", "jitter")}
    shares = {key: 1 - prod(1 - line[key] for line in lines) for key in ("loss", "duplicate", "reorder", "corrupt")}
    return Line(**times, **shares, rate=min(rates, default=0))


def script(interface: str, spared: IPv4Address | None, sent: Line, received: Line = _WELL) -> str:
    """A shell script that makes an interface's line as bad as this, and no worse than this; it can be run again.

    What goes to the `spared` address and comes from it is left alone: it is labctl's. The script starts few programs:
    each costs an emulated machine a tenth of a second.
    """
    ifb = f"ifb-{interface}"
    high, low = _halves(spared) if spared else ("", "")
    lines = [f"[ ! -e /sys/class/net/{ifb} ] || ip link del {ifb}",
             f"tc -force -batch - 2>/dev/null <<'END' || true\nqdisc del dev {interface} root\n"
             f"qdisc del dev {interface} ingress\nEND"]
    rules = []
    if sent.netem():
        rules += [f"qdisc add dev {interface} root handle 1: prio bands 2 priomap {' '.join('1' * _BANDS)}",
                  f"qdisc add dev {interface} parent 1:2 netem {sent.netem()}"]
        if spared:
            add = f"filter add dev {interface} parent 1:"
            rules += [f"{add} protocol ip prio 1 u32 match ip dst {spared} flowid 1:1",
                      f"{add} protocol arp prio 2 u32 match u16 {high} 0xffff at 24 match u16 {low} 0xffff at 26 "
                      "flowid 1:1"]
    if received.netem():
        lines += ["[ -d /sys/module/ifb ] || modprobe ifb numifbs=0", f"ip link add {ifb} type ifb",
                  f"ip link set {ifb} up"]
        add = f"filter add dev {interface} parent ffff:"
        rules += [f"qdisc add dev {ifb} root netem {received.netem()}",
                  f"qdisc add dev {interface} handle ffff: ingress"]
        if spared:
            rules += [f"{add} protocol ip prio 1 u32 match ip src {spared} action pass",
                      f"{add} protocol arp prio 2 u32 match u16 {high} 0xffff at 14 match u16 {low} 0xffff at 16 "
                      "action pass"]
        rules += [f"{add} protocol all prio 3 u32 match u32 0 0 action mirred egress redirect dev {ifb}"]
    if rules:
        lines += ["\n".join(["tc -batch - <<'END' || failed=yes", *rules, "END"]), _COMPLAIN]
    return "\n".join(lines)


def _halves(address: IPv4Address) -> tuple[str, str]:
    """An address as the two numbers of 16 bits that are compared with an ARP packet (RFC 826)."""
    return f"0x{int(address) >> 16:04x}", f"0x{int(address) & 0xffff:04x}"


def _number(text: str) -> float:
    digits = text.rstrip("%abcdefghijklmnopqrstuvwxyz")
    return float(digits) * _UNITS[text[len(digits):]]
