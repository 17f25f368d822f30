"""labctl.observe.capture and the command: which points names stand for, and what is refused."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dpkt
import pytest
from commands import refused
from samples import recorded

from labctl.base.errors import LabError
from labctl.language import catalog
from labctl.machines.private_room import PrivateRoom
from labctl.observe import capture
from labctl.observe.capture import Captured
from labctl.plan import guests, plan
from labctl.plan.domain import tap_mac

PLAN = plan.make(catalog.load(catalog.find("lvs-nat")), "lvs-nat", guests.load("debian-12"))


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A lab lvs-nat in a room, in which the taps are called after nodes and networks; 'rs2' is off."""
    def must_run(node: plan.PlannedNode) -> None:
        if node.name == "rs2":
            raise LabError("The node 'rs2' is off.")

    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    taps = {tap_mac(each.mac): f"{node.name}.{each.network}" for node in PLAN.nodes if node.name != "rs2"
            for each in node.interfaces}
    host = SimpleNamespace(must=lambda _: None, taps=lambda: taps, inside=lambda argv: ["inside", *argv])
    return SimpleNamespace(name="lvs-nat", plan=PLAN, host=host, must_run=must_run)


def devices(found: list[capture.Point]) -> dict[str, object]:
    return {each.name: each.argv[each.argv.index("-i") + 1] for each in found}


@pytest.mark.parametrize(("targets", "found"), [
    ([], {"lan": "lab0", "outer": "lab1"}),
    (["rs1"], {"rs1:lan": "rs1.lan"}),
    (["lvs"], {"lvs:lan": "lvs.lan", "lvs:outer": "lvs.outer"}),
    (["lvs:outer", "lan", "lvs:outer"], {"lvs:outer": "lvs.outer", "lan": "lab0"}),
])
def test_points(lab: Any, targets: list[str], found: dict[str, str]) -> None:
    assert devices(capture.points(lab, targets, "tcp")) == found
    assert devices(capture.node_points(lab, [PLAN.node("client"), PLAN.node("rs2")], "")) == {
        "client:outer": "client.outer"}


@pytest.mark.parametrize(("target", "message", "hint"), [
    ("rs9", "The lab 'lvs-nat' has no node and no network called 'rs9'.", "Did you mean 'rs2' or 'rs1'?"),
    ("rs1:outer", "The node 'rs1' is on no network 'outer'.", "Known: lan."),
    ("lan:rs1", "The lab 'lvs-nat' has no node and no network called 'lan:rs1'.", "Did you mean 'lan'?"),
    ("rs2", "The node 'rs2' is off.", ""),
])
def test_points_that_there_are_not(lab: Any, target: str, message: str, hint: str) -> None:
    with pytest.raises(LabError) as raised:
        capture.points(lab, ["rs1", target], "")
    assert raised.value.message == message
    assert hint in raised.value.hint


def test_program_that_is_missing(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(LabError, match="tcpdump, which captures packets, is not installed") as raised:
        capture.points(lab, [], "")
    assert raised.value.hint == "'sudo apt-get install tcpdump' installs it."


def test_vip_where_there_is_none() -> None:
    base = plan.make(catalog.load(catalog.find("base")), "base", guests.load("debian-12"))
    with pytest.raises(LabError, match="The lab 'base' has no VIP"):
        capture.ready_made("vip", base)


def test_file_has_frames_of_all_points_with_their_times(tmp_path: Path) -> None:
    file = tmp_path / "some.pcapng"
    came = [Captured(1_700_000_000.123456, "lan", b"a" * 61), Captured(1_700_000_001.000001, "rs1:lan", b"b" * 64)]
    with file.open("wb") as opened:
        write = capture.pcapng(opened, ["rs1:lan", "lan"])
        for each in came:
            write(each)
    with file.open("rb") as opened:
        assert [(round(time, 6), frame) for time, frame in dpkt.pcapng.Reader(opened)] == [
            (each.time, each.frame) for each in came]


def test_an_existing_libvirt_is_refused() -> None:
    recorded(PLAN, libvirt_uri="test:///default")
    error = refused("capture", "rs1", "--arp")
    assert error.message == refused("trace", "lvs-nat").message == \
        "In an existing libvirt labctl cannot capture packets."
    assert "private room" in error.hint
    assert "no lab called 'other'" in refused("capture", "other/rs1").message.lower()
    assert refused("capture", "lvs-nat/rs1", "x/lan").message == "These are in several labs: lvs-nat, x."


def test_what_is_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(PLAN)
    monkeypatch.setattr(PrivateRoom, "is_open", lambda _: True)
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    assert refused("trace", "lvs-nat", "https://rs1/").message == "'https://rs1/' is no URL that can be traced."
    assert refused("trace", "http://20.20.20.11:x/").message.startswith("'http://20.20.20.11:x/' is no URL: ")
    assert refused("trace", "http://rs9/").hint == "Did you mean 'rs2' or 'rs1'?"
    assert refused("trace", "a", "b", "c").message == "'c' is too much: a request is to one URL."
