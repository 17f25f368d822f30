"""labctl.machines.filters and what faults make of it: what passes a bridge, by the kernel's own filter."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.base.errors import LabError
from labctl.labs.journal import Wanted, drops
from labctl.language import topology
from labctl.machines.filters import PROTOCOLS, matches, ruleset
from labctl.observe.faults import wanted
from labctl.plan import guests
from labctl.plan.plan import make

NODES = ("a", "b", "c")
PLAN = make(topology.parse("""\
title: Three machines
networks:
  lan: { subnet: 10.0.0.0/24, host: 10.0.0.254 }
  far: { subnet: 10.0.1.0/24, host: 10.0.1.254 }
nodes:
  a: { lan: 10.0.0.1 }
  b: { lan: 10.0.0.2 }
  c: { lan: 10.0.0.3 }
  d: { far: 10.0.1.4 }
""", Path("three.yaml")), "three", guests.load("debian-12"))
SAID = {"arp": {"arp"}, "icmp": {"icmp"}, "vrrp": {"vrrp"}, "ipip": {"ipip"}, "heartbeat": {"udp/694"},
        "http": {"tcp/80", "tcp/80 back"}, "tcp/80": {"tcp/80", "tcp/80 back"}, "udp/694": {"udp/694"},
        "tcp": {"tcp/80", "tcp/80 back", "tcp/8080"}, "udp": {"udp/694"}, "ntp": set(), "tcp/8080": {"tcp/8080"}}
"""What each node says, by the names of what can be blocked."""
ALL = {(one, other, kind) for one, other in permutations(NODES, 2) for kinds in SAID.values() for kind in kinds}


class Segment:
    """A bridge with three nodes in a network namespace."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["unshare", "-r", "-n", sys.executable, Path(__file__).with_name("segment.py")], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._answer() == "there"

    def heard(self, in_force: Sequence[Wanted]) -> set[tuple[str, str, str]]:
        """What passes while faults are in force: from whom, to whom, what."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(ruleset(drops(PLAN, in_force))) + "\n")
        self._process.stdin.flush()
        return {tuple(each) for each in json.loads(self._answer())}

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def segment() -> Iterator[Segment]:
    """One for all tests."""
    made = Segment()
    yield made
    made.close()


def lost(fault: Wanted) -> set[tuple[str, str, str]]:
    """What should not pass."""
    if fault.kind == "block":
        node, kinds = fault.nodes[0], SAID[fault.options["protocol"]]
        return {each for each in ALL if node in each[:2] and each[2] in kinds}
    one, other = fault.options["one"], fault.options["other"]
    return {each for each in ALL if (each[0] in one and each[1] in other)
            or (not fault.options["one_way"] and each[0] in other and each[1] in one)}


def test_without_faults_all_passes(segment: Segment) -> None:
    assert segment.heard([]) == ALL


@pytest.mark.parametrize("protocol", SAID)
def test_a_protocol_is_blocked_both_ways_and_nothing_else(segment: Segment, protocol: str) -> None:
    fault = wanted.block(PLAN, "a", protocol)
    assert segment.heard([fault]) == ALL - lost(fault)


CUTS = st.builds(lambda nodes, split, one_way: wanted.cut(PLAN, nodes[:split], nodes[split:], one_way=one_way),
                 st.permutations(NODES), st.integers(1, 2), st.booleans())
BLOCKS = st.builds(lambda node, protocol: wanted.block(PLAN, node, protocol), st.sampled_from(NODES),
                   st.sampled_from(sorted(SAID)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(CUTS | BLOCKS, st.booleans()), min_size=1, max_size=4))
def test_what_is_left_in_force_is_lost_and_nothing_else(segment: Segment, faults: list[tuple[Wanted, bool]]) -> None:
    left = [fault for fault, stays in faults if stays]
    segment.heard([fault for fault, _ in faults])
    assert segment.heard(left) == ALL - {each for fault in left for each in lost(fault)}


def test_a_partition_makes_sense() -> None:
    with pytest.raises(LabError, match="names 'a' twice"):
        wanted.cut(PLAN, ["a", "b"], ["a"])
    with pytest.raises(LabError, match="names 'a' twice"):
        wanted.cut(PLAN, ["a", "a"], ["b"])
    with pytest.raises(LabError, match="share no network"):
        wanted.cut(PLAN, ["a"], ["d"])
    with pytest.raises(LabError, match="no node called 'e'"):
        wanted.cut(PLAN, ["a"], ["e"])
    assert wanted.cut(PLAN, ["a"]).what == "cut a b,c,d"


def test_what_is_no_protocol_is_not_blocked() -> None:
    for protocol in ("vrpp", "tcp/0", "tcp/65536", "tcp/x", "ip daddr 1.1.1.1", ""):
        with pytest.raises(LabError, match="no protocol that can be blocked"):
            wanted.block(PLAN, "a", protocol)
    assert all(matches(protocol) for protocol in PROTOCOLS)
