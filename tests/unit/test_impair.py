"""labctl.language.impair: what is wrong with a line."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import changed, plan_of, told

from labctl.language.impair import Impair, Line, in_series, script
from labctl.plan.steps import Step

HOST = IPv4Address("10.10.10.1")


def test_times_add_up_shares_are_of_what_is_left_and_the_lowest_rate_counts() -> None:
    both = in_series([Impair(delay="20ms", jitter="1ms", loss="50%", rate="10mbit"),
                      Impair(delay="1.5s", loss="50%", corrupt="0.1%", rate="512kbit")])
    assert both == Line(delay=1520, jitter=1, loss=0.75, rate=512, corrupt=pytest.approx(0.001))
    assert both.netem() == "delay 1520ms 1ms loss 75% corrupt 0.1% rate 512kbit"
    assert in_series([]).netem() == ""


SHARES = st.integers(0, 100).map("{}%".format)
IMPAIRMENTS = st.builds(Impair, delay=st.integers(0, 999).map("{}ms".format), loss=SHARES, duplicate=SHARES,
                        rate=st.sampled_from(["1mbit", "3kbit", "2gbit"]))


@given(st.lists(IMPAIRMENTS, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_bad_lines_makes_no_difference(lines: list[Impair], random: object) -> None:
    mixed = list(lines)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert in_series(mixed) == pytest.approx(in_series(lines))


def test_a_line_that_is_well_has_nothing_in_it() -> None:
    assert "add" not in script("eth0", HOST, Line())
    assert "netem" not in script("eth0", HOST, Line())


def test_the_physical_machine_is_spared_both_ways() -> None:
    bad = in_series([Impair(loss="100%")])
    text = script("eth0", HOST, bad, bad)
    for spared in ("match ip dst 10.10.10.1 flowid 1:1", "match ip src 10.10.10.1 action pass",
                   "match u16 0x0a0a 0xffff at 24 match u16 0x0a01 0xffff at 26 flowid 1:1",
                   "match u16 0x0a0a 0xffff at 14 match u16 0x0a01 0xffff at 16 action pass"):
        assert spared in text
    assert "10.10.10.1" not in script("eth0", None, bad, bad)


@pytest.mark.parametrize(("given_", "said"), [
    ("{ delay: '20' }", "networks.lan.impair.delay: '20' is not a time such as 20ms or 1.5s."),
    ("{ loss: 1 % }", "networks.lan.impair.loss: '1 %' is not a share such as 1% or 0.5%."),
    ("{ rate: fast }", "networks.lan.impair.rate: 'fast' is not a rate such as 512kbit or 10mbit."),
    ("{ loss: 100.1% }", "networks.lan.impair.loss: 100.1% is more than all of it."),
    ("{ rate: 0mbit }", "networks.lan.impair.rate: at this rate nothing would ever arrive."),
    ("{ jitter: 1ms }", "networks.lan.impair: 'jitter' needs a 'delay'."),
    ("{}", "networks.lan.impair: says nothing; a key such as 'delay: 20ms' is needed."),
    ("{ dely: 1ms }", "unknown key 'dely' in 'networks.lan.impair'. Did you mean 'delay'?"),
])
def test_what_is_wrong_in_a_topology_is_said(given_: str, said: str) -> None:
    faulty = changed("host: 10.10.10.1 }", f"host: 10.10.10.1, impair: {given_} }}")
    assert [message for _, message in told(faulty)] == [said]


def test_a_bad_network_is_a_step_of_each_node_that_is_on_it() -> None:
    plan = plan_of(changed("subnet: 10.10.20.0/24 }", "subnet: 10.10.20.0/24, impair: { delay: 20ms } }"))

    def bad_lines(node: str) -> list[Step]:
        return [step for step in plan.node(node).steps if step.kind == "base/impair"]

    assert [node.name for node in plan.nodes if bad_lines(node.name)] == ["lvs", "out"]
    step, = bad_lines("lvs")
    assert "qdisc add dev eth1 parent 1:2 netem delay 20ms\n" in step.write_files[0].content
    assert "eth0" not in step.write_files[0].content
