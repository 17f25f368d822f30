"""labctl.observe.faults: what is broken on purpose is put back, whatever happens meanwhile."""

from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from played import Played, faults_of
from samples import NAT, plan_of

from labctl.base.errors import LabError
from labctl.labs import power
from labctl.labs.journal import Journal, Wanted, drops
from labctl.language.impair import Impair, in_series
from labctl.machines.filters import _rule
from labctl.observe.faults import wanted
from labctl.observe.faults.faults import Faults
from labctl.observe.observer import free_addresses

if TYPE_CHECKING:
    from labctl.labs.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Played:
    return Played(tmp_path)


def kinds(faults: Faults) -> list[str]:
    return [fault.what for fault in faults.in_force()]


def test_it_is_broken_for_the_length_of_the_block(lab: Played) -> None:
    faults = faults_of(lab, by="check")
    with faults.stop_units("rs1", "httpd"), faults.crash("lvs"):
        assert lab.broken == {"rs1 httpd stopped", "lvs off"}
        assert kinds(faults) == ["stop rs1 httpd", "crash lvs"]
    assert lab.broken == set()
    assert lab.said == ["lvs there"]
    assert faults.in_force() == []


def test_and_put_back_when_the_check_fails(lab: Played) -> None:
    with pytest.raises(ValueError, match="wrong"), faults_of(lab).command("rs1", "break x", "mend x"):
        assert lab.broken == {"rs1 x"}
        raise ValueError("wrong")
    assert lab.broken == set()


def test_what_could_not_be_broken_is_not_in_force(lab: Played) -> None:
    lab.silent.add("rs1")
    for what in (wanted.stop(lab.plan, "rs1", "cron.service"), wanted.command(lab.plan, "rs1", "break x", "mend x")):
        with pytest.raises(LabError, match="did not answer"):
            faults_of(lab).make(what)
    assert faults_of(lab).in_force() == []


def interrupted(lab: Played) -> Faults:
    faults = faults_of(lab, by="check")
    with pytest.raises(KeyboardInterrupt), faults.stop_units("rs1", "httpd"), \
            faults.command("rs2", "break x", "mend x"), faults.crash("lvs"):
        raise KeyboardInterrupt
    return faults


def test_an_interruption_puts_back_what_takes_no_time(lab: Played) -> None:
    said: list[str] = []
    faults = interrupted(lab)
    faults.hurry(said.append)
    assert lab.broken == set()
    assert said == ["'lvs' was switched off, and boots again."]
    assert kinds(faults) == ["crash lvs"]


def test_the_next_test_puts_back_the_rest_and_waits_until_the_lab_serves(lab: Played) -> None:
    interrupted(lab).hurry(lambda _: None)
    said: list[str] = []
    faults_of(lab, by="check").mend(said.append)
    assert lab.said == ["lvs there", "serves"]
    assert said == ["The last test was interrupted; what it had broken is put back, and 'lvs' boots."]
    faults_of(lab, by="check").mend(said.append)
    assert len(said) == 1


def test_what_a_killed_test_broke_is_put_back_and_nothing_of_the_users(lab: Played) -> None:
    faults_of(lab).make(wanted.hang(lab.plan, "rs2", "nginx"))
    interrupted(lab)
    faults_of(lab, by="check").mend(lambda _: None)
    assert lab.broken == {"rs2 nginx hung"}
    assert lab.said == ["lvs there", "serves"]
    assert kinds(faults_of(lab)) == ["hang rs2 nginx"]


def test_a_node_that_is_silent_is_named_and_put_back_later(lab: Played) -> None:
    faults = interrupted(lab)
    lab.silent.add("rs2")
    said: list[str] = []
    faults.hurry(said.append)
    assert "'rs2' is not as it was yet; the next 'labctl test' puts it back." in said
    assert "command rs2 break x" in kinds(faults)
    faults.mend(said.append)
    assert said[-1].startswith("Not all of it could be put back: 'mend x' failed on 'rs2'")
    assert faults.in_force() == []


# ---- One after the other, in any order ---------------------------------------------------------------------


def test_each_fault_has_a_number_of_its_own_also_after_a_reset(lab: Played) -> None:
    faults = faults_of(lab)
    first = faults.make(wanted.freeze(lab.plan, "rs1"))
    assert faults.heal(first)
    second = faults.make(wanted.freeze(lab.plan, "rs1"))
    Journal(lab.directory).discard()
    third = faults.make(wanted.stop(lab.plan, "rs2", "cron.service"))
    assert [first.id, second.id, third.id] == [1, 2, 3]


def test_what_is_off_or_stands_still_breaks_no_further(lab: Played) -> None:
    faults = faults_of(lab)
    faults.make(wanted.freeze(lab.plan, "rs1"))
    faults.make(wanted.crash(lab.plan, "rs2"))
    for what in (wanted.stop(lab.plan, "rs1", "cron.service"), wanted.crash(lab.plan, "rs2"),
                 wanted.freeze(lab.plan, "rs1"), wanted.unplug(lab.plan, "rs2")):
        with pytest.raises(LabError, match="is in force"):
            faults.make(what)
    assert kinds(faults) == ["freeze rs1", "crash rs2"]
    faults.make(wanted.crash(lab.plan, "rs1"))
    assert kinds(faults) == ["crash rs2", "crash rs1"]
    lab.off.add("lvs")
    with pytest.raises(LabError, match="The node 'lvs' is off"):
        faults.make(wanted.freeze(lab.plan, "lvs"))


def test_what_cannot_be_reached_heals_as_soon_as_it_can_be(lab: Played) -> None:
    faults = faults_of(lab)
    stopped = faults.make(wanted.stop(lab.plan, "rs1", "cron.service"))
    pulled = faults.make(wanted.unplug(lab.plan, "rs1"))
    assert not faults.heal(stopped)
    assert [fault.over for fault in faults.in_force()] == [True, False]
    assert lab.broken == {"rs1 cron.service stopped", "rs1 lan unplugged"}
    assert faults.heal(pulled)
    assert lab.broken == set()
    assert faults.in_force() == []


def test_a_boot_heals_nothing_but_what_was_over(lab: Played) -> None:
    faults = faults_of(lab)
    faults.make(wanted.stop(lab.plan, "rs1", "cron.service"))
    over = faults.make(wanted.hang(lab.plan, "rs1", "nginx"))
    faults.make(wanted.kill(lab.plan, "rs1", "crond"))
    faults.make(wanted.unplug(lab.plan, "rs1"))
    crashed = faults.make(wanted.crash(lab.plan, "rs1"))
    assert not faults.heal(over)
    faults.heal(crashed)
    assert lab.broken == {"rs1 cron.service stopped", "rs1 lan unplugged"}
    assert kinds(faults) == ["stop rs1 cron.service", "unplug rs1"]


def test_what_an_existing_libvirt_cannot_do_is_refused_with_the_reason(lab: Played) -> None:
    lab.private = False
    for what in (wanted.cut(lab.plan, ["rs1"], ["rs2"]), wanted.block(lab.plan, "rs1", "vrrp")):
        with pytest.raises(LabError, match="In an existing libvirt labctl cannot keep machines from each other"):
            faults_of(lab).make(what)
    assert faults_of(lab).in_force() == []


# ---- Any of them, in any order -------------------------------------------------------------------------------

PLAN = plan_of(NAT)
WANTED = [
    wanted.crash(PLAN, "rs1"), wanted.crash(PLAN, "rs2"), wanted.freeze(PLAN, "rs1"), wanted.unplug(PLAN, "rs1"),
    wanted.unplug(PLAN, "lvs", "lan"), wanted.unplug(PLAN, "lvs", "outer"), wanted.stop(PLAN, "rs1", "cron.service"),
    wanted.hang(PLAN, "rs1", "nginx"), wanted.hang(PLAN, "lvs", "nginx"), wanted.cut(PLAN, ["rs1"], ["lvs"]),
    wanted.cut(PLAN, ["rs1", "rs2"], ["lvs"], one_way=True), wanted.block(PLAN, "rs1", "icmp"),
    wanted.fill(PLAN, "rs1"), wanted.skew(PLAN, "rs1", 60), wanted.skew(PLAN, "rs1", -0.5),
    wanted.duplicate(PLAN, "10.10.10.13", "rs1"), wanted.duplicate(PLAN, "10.10.10.13", "lvs"),
    wanted.impair(PLAN, "rs1", delay="20ms", loss="1%"), wanted.impair(PLAN, "rs1", "lan", delay="5ms", only=True),
    wanted.duplicate(PLAN, "20.20.20.99", "lvs"), wanted.undo(PLAN, "rs1", "hosts"), wanted.undo(PLAN, "rs1", "page"),
]
EFFECT = {"crash rs1": {"rs1 off"}, "crash rs2": {"rs2 off"}, "freeze rs1": {"rs1 still"},
          "unplug rs1": {"rs1 lan unplugged"}, "unplug lvs:lan": {"lvs lan unplugged"},
          "unplug lvs:outer": {"lvs outer unplugged"}, "stop rs1 cron.service": {"rs1 cron.service stopped"},
          "fill rs1": {"rs1/disk full"}, "undo rs1/hosts": {"rs1/hosts undone"}, "undo rs1/page": {"rs1/page undone"},
          "duplicate 10.10.10.13 rs1": {"rs1 has 10.10.10.13", "pinned: 10.10.10.13"},
          "duplicate 10.10.10.13 lvs": {"lvs has 10.10.10.13", "pinned: 10.10.10.13"},
          "duplicate 20.20.20.99 lvs": {"lvs has 20.20.20.99"},
          "hang rs1 nginx": {"rs1 nginx hung"}, "hang lvs nginx": {"lvs nginx hung"}}


def expected(faults: Faults) -> set[str]:
    """What should be broken by what is in force, but for what a machine that is off has not."""
    names = kinds(faults)
    off = {name.split()[1] for name in names if name.startswith("crash")}
    inside = {effect for name in names for effect in EFFECT.get(name, ())}
    lines: list[Impair] = []
    for fault in faults.in_force():
        if fault.kind == "impair":
            lines = [*([] if fault.options["only"] else lines), Impair(**fault.options["impair"])]
    inside |= {f"rs1 eth0 netem {in_series(lines).netem()}"} if lines else set()
    lost = {f"lost: {_rule(drop)}" for drop in drops(PLAN, faults.in_force())}
    return {effect for effect in inside if effect.split()[0] not in off} | {f"{node} off" for node in off} | lost


@given(moves=st.lists(st.integers(0, 2 * len(WANTED) - 1), max_size=30))
def test_what_is_in_force_is_broken_and_nothing_else_whatever_comes_and_goes(moves: list[int]) -> None:
    with TemporaryDirectory() as directory:
        lab = Played(Path(directory))
        faults = faults_of(lab)
        for move in moves:
            in_force = faults.in_force()
            if move < len(WANTED):
                with suppress(LabError):
                    faults.make(WANTED[move])
            elif in_force:
                faults.heal(in_force[move % len(in_force)])
            assert lab.broken == expected(faults)
            wrong = sum(fault.options["seconds"] for fault in faults.in_force() if fault.kind == "skew")
            assert lab.clocks.get("rs1", 0) == (0 if "rs1 off" in lab.broken else wrong)
        for fault in sorted(faults.in_force(), key=lambda fault: fault.kind != "unplug"):
            if fault in faults.in_force():
                faults.heal(fault)
        assert lab.broken == set()
        assert lab.clocks.get("rs1", 0) == 0
        assert faults.in_force() == []


@pytest.mark.parametrize("first", WANTED, ids=lambda fault: fault.what)
def test_of_any_two_the_first_can_heal_first(first: Wanted, tmp_path: Path) -> None:
    lab = Played(tmp_path)
    faults = faults_of(lab)
    for second in WANTED:
        made = faults.make(first)
        with suppress(LabError):  # It may make no sense after the first.
            faults.make(second)
        faults.heal(made)
        assert lab.broken == expected(faults), second.what
        while faults.in_force():
            faults.heal(faults.in_force()[-1])
        assert lab.broken == set(), second.what


def test_what_makes_no_sense_is_refused_with_the_reason() -> None:
    for said, want in {
        "is no IPv4 address": lambda: wanted.duplicate(PLAN, "10.10.10", "rs1"),
        "the physical machine's address": lambda: wanted.duplicate(PLAN, "10.10.10.1", "rs1"),
        "the address of 'rs1' itself": lambda: wanted.duplicate(PLAN, "10.10.10.12", "rs1"),
        "on no network that 20.20.20.99 belongs to": lambda: wanted.duplicate(PLAN, "20.20.20.99", "rs1"),
        "wrong by 0 seconds": lambda: wanted.skew(PLAN, "rs1", 0),
        "wrong by inf seconds": lambda: wanted.skew(PLAN, "rs1", float("inf")),
        "wrong by nan seconds": lambda: wanted.skew(PLAN, "rs1", float("nan")),
        "no step called 'pge'": lambda: wanted.undo(PLAN, "rs1", "pge"),
        "no node called 'rs9'": lambda: wanted.fill(PLAN, "rs9"),
        "on no network called 'outer'": lambda: wanted.unplug(PLAN, "rs1", "outer"),
    }.items():
        with pytest.raises(LabError, match=said):
            want()


def test_a_step_that_is_undone_cannot_be_undone(lab: Played) -> None:
    lab.broken.add("rs1/page undone")
    with pytest.raises(LabError, match="'rs1/page' is undone already"):
        faults_of(lab).make(wanted.undo(lab.plan, "rs1", "page"))
    assert faults_of(lab).in_force() == []


def test_who_starts_a_node_is_told_what_else_keeps_the_lab_from_serving(lab: Played) -> None:
    faults = faults_of(lab)
    faults.make(wanted.block(lab.plan, "rs1", "http"))
    faults.make(wanted.crash(lab.plan, "rs2"))
    lab.start(lab.plan.node("rs2"))  # As by 'labctl start', which takes note of it afterwards.
    assert power._missing(cast("Lab", lab), lab.states()) == "Note that the fault 'block rs1 http' is in force."


def test_a_journal_that_cannot_be_read_is_no_traceback(lab: Played) -> None:
    (lab.directory / "faults.json").write_text('{"version": 1, "faults": [{}]}')
    with pytest.raises(LabError, match="cannot be read"):
        faults_of(lab).in_force()


@pytest.mark.parametrize(("program", "said"), [
    ("sshd", "nothing could be put back"), ("a b", "not the name of a program"), ("$(x)", "not the name of a program")])
def test_programs_that_nobody_should_break(lab: Played, program: str, said: str) -> None:
    for want in (wanted.kill, wanted.hang):
        with pytest.raises(LabError, match=said):
            want(lab.plan, "rs1", program)


def test_a_service_is_stopped_by_any_of_its_names(lab: Played) -> None:
    for name in ("apache", "httpd", "apache2"):
        assert wanted.stop(lab.plan, "rs1", name).options == {"units": "apache2"}
    with pytest.raises(LabError, match="no service called 'apach'") as caught:
        wanted.stop(lab.plan, "rs1", "apach")
    assert "'apache'" in caught.value.hint
    with pytest.raises(LabError, match="reaches nodes by SSH"):
        wanted.stop(lab.plan, "rs1", "ssh.service")


# ---- Addresses for a client -----------------------------------------------------------------------------------


def test_free_addresses_are_hosts_that_nobody_has_and_another_choice_comes_next() -> None:
    network, taken = IPv4Network("10.0.0.0/29"), [IPv4Address("10.0.0.2"), IPv4Address("10.0.0.5"), None]
    found = [[str(address)[-1] for address in free_addresses(network, taken, start, 2)] for start in range(7)]
    assert found == [["1", "3"], ["3", "4"], ["3", "4"], ["4", "6"], ["6", "1"], ["6", "1"], ["1", "3"]]
    assert len(free_addresses(IPv4Network("10.0.0.0/8"), taken, 1_790_000_000, 8)) == 8
    with pytest.raises(LabError, match="has 4 free addresses, and this check needs 5"):
        free_addresses(network, taken, 3, 5)
    with pytest.raises(LabError, match="has 0 free addresses"):
        free_addresses(network, list(network.hosts()), 3, 1)
