"""labctl.observe.faults: what is broken on purpose is put back, whatever happens meanwhile."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from samples import NAT, plan_of

from labctl.base.errors import LabError, Unreachable
from labctl.observe.faults import Fault, Faults
from labctl.observe.observer import free_addresses

if TYPE_CHECKING:
    from labctl.labs.lab import Lab
    from labctl.plan.plan import PlannedNode


class Played:
    """A lab of which every node does what it is told, but those that are silent."""

    def __init__(self, directory: Path) -> None:
        self.plan = plan_of(NAT)
        self.directory = directory
        self.patience = 1.0
        self.ssh = self
        self.done: list[str] = []
        self.silent: set[str] = set()
        self.off: set[str] = set()

    def run(self, node: str, script: str, timeout: float) -> CompletedProcess[str]:
        """See Ssh."""
        del timeout
        if node in self.silent:
            raise Unreachable(f"The node '{node}' did not answer.")
        self.done.append(f"{node}: {script.removeprefix('{ ').removesuffix(chr(10) + '} </dev/null')}")
        return CompletedProcess([], 0, "", "")

    def crash(self, node: "PlannedNode") -> None:
        """See Lab."""
        self.off.add(node.name)
        self.done.append(f"{node.name} off")

    def start(self, node: "PlannedNode") -> None:
        """See Lab."""
        self.off.discard(node.name)
        self.done.append(f"{node.name} on")

    def states(self) -> dict[str, str]:
        """See Lab."""
        return {node.name: "off" if node.name in self.off else "running" for node in self.plan.nodes}

    def gates(self, _: object) -> object:
        """See Lab."""
        def wait_for_nodes(nodes: "Iterable[PlannedNode]") -> None:
            self.done.extend(f"{node.name} there" for node in nodes)

        return SimpleNamespace(wait_for_nodes=wait_for_nodes, wait_for_service=lambda: self.done.append("serves"))


@pytest.fixture
def lab(tmp_path: Path) -> Played:
    return Played(tmp_path)


def faults_of(lab: Played) -> Faults:
    return Faults(cast("Lab", lab))


def test_it_is_broken_for_the_length_of_the_block(lab: Played) -> None:
    faults = faults_of(lab)
    with faults.stop("rs1", "httpd"), faults.crash("lvs"):
        assert lab.done == ["rs1: systemctl stop httpd", "lvs off"]
        assert faults.left() == [Fault(node="rs1", mend="systemctl start httpd"), Fault(node="lvs", mend="")]
    assert lab.done[2:] == ["lvs on", "lvs there", "rs1: systemctl start httpd"]
    assert faults.left() == []


def test_and_put_back_when_the_check_fails(lab: Played) -> None:
    with pytest.raises(ValueError, match="wrong"), faults_of(lab).command("rs1", "do", "mend"):
        raise ValueError("wrong")
    assert lab.done == ["rs1: do", "rs1: mend"]


def interrupted(lab: Played) -> Faults:
    faults = faults_of(lab)
    with pytest.raises(KeyboardInterrupt), faults.stop("rs1", "httpd"), faults.command("rs2", "do", "mend"), \
            faults.crash("lvs"):
        raise KeyboardInterrupt
    del lab.done[:]
    return faults


def test_an_interruption_puts_back_what_takes_no_time(lab: Played) -> None:
    said: list[str] = []
    faults = interrupted(lab)
    faults.hurry(said.append)
    assert sorted(lab.done) == ["lvs on", "rs1: systemctl start httpd", "rs2: mend"]
    assert said == ["'lvs' was switched off, and boots again."]
    assert faults.left() == [Fault(node="lvs", mend="")]


def test_the_next_test_puts_back_the_rest_and_waits_until_the_lab_serves(lab: Played) -> None:
    interrupted(lab).hurry(lambda _: None)
    del lab.done[:]
    said: list[str] = []
    faults_of(lab).mend(said.append)
    assert lab.done == ["lvs there", "serves"]
    assert said == ["The last test was interrupted; what it had broken is put back, and 'lvs' boots."]
    faults_of(lab).mend(said.append)
    assert len(said) == 1


def test_what_a_killed_test_broke_is_put_back_the_last_one_first(lab: Played) -> None:
    interrupted(lab)
    faults_of(lab).mend(lambda _: None)
    assert lab.done == ["lvs on", "lvs there", "rs2: mend", "rs1: systemctl start httpd", "serves"]


def test_a_node_that_is_silent_is_named_and_put_back_later(lab: Played) -> None:
    faults = interrupted(lab)
    lab.silent.add("rs2")
    said: list[str] = []
    faults.hurry(said.append)
    assert "'rs2' is not as it was yet; the next 'labctl test' puts it back." in said
    assert Fault(node="rs2", mend="mend") in faults.left()
    faults.mend(said.append)
    assert said[-1] == "Not all of it could be put back: The node 'rs2' did not answer."
    assert faults.left() == []


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
