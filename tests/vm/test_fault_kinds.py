"""Each kind of fault in a real lab: what one sees of it, and that it heals."""

import time

import pytest
from machines import PATIENCE, Labctl

from labctl.base.wait import Deadline, until

LAB = "lvs-dr-keepalived"
RS1, RS2 = "10.10.10.12", "10.10.10.13"
ASK_RS1 = f"ping -c 1 -W 1 {RS1} >/dev/null && echo there || echo silent"
GET_RS1 = f"curl -s -m 3 -o /dev/null {RS1}; echo $?"
CASES = {
    # fault: (who looks, how, what they see while it is in force and afterwards)
    "freeze rs1": ("client", ASK_RS1, "silent", "there"),
    "unplug rs1:lan": ("client", ASK_RS1, "silent", "there"),
    "cut rs1 client": ("client", ASK_RS1, "silent", "there"),
    "cut rs1 client,lvs-s --one-way": ("client", ASK_RS1, "silent", "there"),
    "block rs1 icmp": ("client", f"{ASK_RS1}; {GET_RS1}", "silent\n0", "there\n0"),
    "impair rs1 --delay 400ms": (
        "client", f"ping -c 1 -W 9 {RS1} | grep -qE 'time=([89]|[1-9][0-9])[0-9][0-9]' && echo slow || echo quick",
        "slow", "quick"),
    "stop rs1 httpd": ("client", GET_RS1, "7", "0"),
    "hang rs1 apache2": ("client", GET_RS1, "28", "0"),
    "kill lvs-s keepalived": ("lvs-s", "pgrep -x keepalived >/dev/null && echo runs || echo dead", "dead", "runs"),
    "fill rs1": ("rs1", "sh -c 'echo x >/root/x' 2>/dev/null && echo room || echo full", "full", "room"),
    "skew rs1 3600": (
        "rs1", "off=$(($(date +%s) - $(cat /sys/class/rtc/rtc0/since_epoch))); "
               "[ $off -gt 1800 ] && echo wrong || echo right",
        "wrong", "right"),
    "duplicate 10.10.10.99 rs1": (
        "client", "arping -c 1 -w 2 -I eth0 10.10.10.99 >/dev/null && echo taken || echo free", "taken", "free"),
    "undo rs1/page": ("client", f"curl -s -m 3 {RS1} | grep -qx rs1 && echo mine || echo none", "none", "mine"),
}
"""Crash comes last: that costs a boot."""


def sees(labctl: Labctl, node: str, command: str) -> str:
    """What a command prints on a node."""
    return labctl("exec", f"{LAB}/{node}", command).out.strip()


@pytest.fixture(autouse=True)
def _whole(shared: Labctl) -> None:
    """A test that fails leaves nothing broken to the next one."""
    if shared.json("faults", LAB)["faults"]:
        shared("heal", "--lab", LAB, "--all")


@pytest.mark.vm
@pytest.mark.parametrize("fault", CASES)
def test_it_is_seen_and_heals(fault: str, shared: Labctl) -> None:
    node, command, broken, whole = CASES[fault]
    kind, *words = fault.split()
    # The node that it is about has the lab's name before it, since two labs are up that have such nodes.
    at = 1 if kind == "duplicate" else 0
    words[at] = f"{LAB}/{words[at]}"
    shared("fault", kind, *words)
    known, = shared.json("status", LAB)["faults"]
    assert known["what"].startswith(" ".join(fault.split()[:2]))
    assert sees(shared, node, command) == broken
    shared("heal", f"{LAB}/{known['id']}")
    assert until(lambda: sees(shared, node, command) == whole, Deadline(2 * PATIENCE), 0.1)
    assert shared.json("faults", LAB)["faults"] == []


@pytest.mark.vm
def test_several_heal_in_any_order_and_one_by_itself(shared: Labctl) -> None:
    for fault in ("stop rs1 httpd", "cut rs1 client", "unplug rs1"):
        kind, node, *more = fault.split()
        shared("fault", kind, f"{LAB}/{node}", *more)
    stopped, cut, pulled = (fault["id"] for fault in shared.json("faults", LAB)["faults"])
    assert "heals as soon as 'rs1' can be reached" in shared("heal", f"{LAB}/{stopped}").err
    shared("heal", f"{LAB}/{cut}")
    assert sees(shared, "client", ASK_RS1) == "silent"
    shared("heal", f"{LAB}/{pulled}")
    assert until(lambda: sees(shared, "client", GET_RS1) == "0", Deadline(2 * PATIENCE), 0.1)
    assert shared.json("faults", LAB)["faults"] == []
    began = time.monotonic()
    shared("fault", "block", f"{LAB}/rs1", "icmp", "--for", "2")
    assert sees(shared, "client", ASK_RS1) == "silent" or time.monotonic() - began > 2
    assert until(lambda: sees(shared, "client", ASK_RS1) == "there", Deadline(10 + PATIENCE), 0.2)
    assert until(lambda: not shared.json("faults", LAB)["faults"], Deadline(PATIENCE), 0.2)


@pytest.mark.vm
def test_a_duplicate_of_a_node_misleads_its_neighbours_and_not_labctl(shared: Labctl) -> None:
    shared("fault", "duplicate", RS2, f"{LAB}/rs1")
    assert sees(shared, "rs2", "hostname") == "rs2"
    macs = sees(shared, "client", f"arping -b -c 2 -w 3 -I eth0 {RS2} | grep -o '\\[.*\\]' | sort -u | wc -l")
    assert macs == "2"
    shared("heal", "--lab", LAB, "--all")
    assert until(lambda: sees(shared, "client", f"curl -s -m 3 {RS2} || true") == "rs2", Deadline(3 * PATIENCE), 0.5)


@pytest.mark.vm
def test_a_crash_heals_by_a_boot_and_what_else_is_broken_stays_so(shared: Labctl) -> None:
    shared("fault", "hang", f"{LAB}/rs1", "apache2")
    shared("fault", "crash", f"{LAB}/rs1")
    assert sees(shared, "client", ASK_RS1) == "silent"
    assert "'rs1' is off: 'crash rs1' is in force" in shared("fault", "fill", f"{LAB}/rs1", code=2).err
    crashed = shared.json("faults", LAB)["faults"][-1]
    shared("heal", f"{LAB}/{crashed['id']}")
    assert sees(shared, "client", f"{ASK_RS1}; {GET_RS1}") == "there\n28"
    shared("heal", f"{LAB}/rs1")
    assert until(lambda: sees(shared, "client", GET_RS1) == "0", Deadline(2 * PATIENCE), 0.1)


@pytest.mark.vm
def test_a_reset_leaves_nothing_broken(shared: Labctl) -> None:
    shared("fault", "cut", f"{LAB}/rs1", "client")
    shared("fault", "unplug", f"{LAB}/rs1")
    shared("reset", f"{LAB}/rs1", use="start")
    assert shared.json("faults", LAB)["faults"] == []
    assert sees(shared, "client", f"{ASK_RS1}; {GET_RS1}") == "there\n0"
