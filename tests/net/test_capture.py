"""labctl.observe.capture: frames that cross a pair of interfaces, in a namespace; tshark reads what is written."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import frames
import pytest

from labctl.base import namespace
from labctl.base.errors import LabError
from labctl.base.wait import Deadline, until
from labctl.language import catalog
from labctl.observe import capture
from labctl.observe.capture import Captured, Point
from labctl.observe.packet import parse
from labctl.plan import guests, plan

ONE, TWO = "52:54:00:00:00:01", "52:54:00:00:00:02"
_LINKS = ("ip link add one type veth peer name two && ip link set one up && ip link set two up && "
          "ip link set lo up && echo ready && exec sleep 60")
_SEND = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((sys.argv[1], 0))
for frame in sys.argv[2:]:
    wire.send(bytes.fromhex(frame))
"""


@pytest.fixture
def enter(tmp_path: Path) -> Iterator[list[str]]:
    """The words by which a program begins in a namespace with two interfaces that are connected."""
    output = tmp_path / "output"
    process = namespace.spawn(["unshare", "-n", "sh", "-c", _LINKS], output)
    try:
        assert until(lambda: "ready" in output.read_text(), Deadline(20), interval=0.05), output.read_text()
        yield ["nsenter", "-t", str(process.pid), "-U", "--preserve-credentials", "-n"]
    finally:
        process.kill()
        process.wait()


def point(enter: list[str], device: str, expression: str = "") -> Point:
    return Point(f"node:{device}", [*enter, *capture.tcpdump(device, "-Z", "root"), "--", expression])


def send(enter: list[str], device: str, *sent: bytes) -> None:
    subprocess.run([*enter, sys.executable, "-c", _SEND, device, *(frame.hex() for frame in sent)], check=True)


def request(port: int) -> bytes:
    return frames.ethernet(ONE, TWO, frames.tcp("10.10.10.50:4711", f"10.10.10.100:{port}", "SYN"))


def test_both_ends_see_what_the_filter_lets_through(enter: list[str], tmp_path: Path) -> None:
    file = tmp_path / "both.pcapng"
    points = [point(enter, name, "tcp port 80") for name in ("one", "two")]
    with capture.capturing(points) as running:
        send(enter, "one", request(80), request(81))
        seen = capture.settle(running, 5, silence=1)
    assert running.dropped == 0
    assert sorted((each.point, each.packet.target_port) for each in seen) == [("node:one", 80), ("node:two", 80)]

    with file.open("wb") as opened:
        write = capture.pcapng(opened, [each.name for each in points])
        for captured in seen:
            write(captured)
    fields = ["frame.interface_name", "frame.time_epoch", "ip.dst", "tcp.dstport"]
    read = subprocess.run(["tshark", "-r", file, "-T", "fields", *(f"-e{field}" for field in fields)],
                          check=True, capture_output=True, text=True).stdout
    rows = [line.split("\t") for line in read.splitlines()]
    assert [(name, address, port) for name, _, address, port in rows] == [
        (each.point, "10.10.10.100", "80") for each in seen]
    assert [float(time) for _, time, *_ in rows] == pytest.approx([each.time for each in seen], abs=2e-6)


def test_interface_that_goes_away_ends_its_point_alone(enter: list[str]) -> None:
    with capture.capturing([point(enter, "one"), point(enter, "lo")]) as running:
        subprocess.run([*enter, "ip", "link", "del", "one"], check=True)
        frames_until = running.frames(Deadline(10))
        assert any(running.ended for _ in frames_until)
        assert list(running.ended) == ["node:one"]


def test_wrong_interface_is_said(enter: list[str]) -> None:
    with pytest.raises(LabError, match="At 'node:three' nothing can be captured: three: No such device"), \
            capture.capturing([point(enter, "one"), point(enter, "three")]):
        pass


def test_processes_end_with_the_block(enter: list[str]) -> None:
    with capture.capturing([point(enter, "one", "tcp")]) as running:
        assert running.stop() == []
        assert list(running.ended) == ["node:one"]


def test_no_filter_of_pcaps() -> None:
    capture.must_be_filter("tcp port 80 or ip proto 4")
    for wrong in ("tcp prt 80", "port 80 and", "-w x"):
        with pytest.raises(LabError, match=f"'{wrong}' is no filter of pcap's: "):
            capture.must_be_filter(wrong)


def test_ready_made_filters(enter: list[str]) -> None:
    planned = plan.make(catalog.load(catalog.find("lvs-tun")), "lvs-tun", guests.load("debian-12"))
    plain = frames.tcp("10.10.10.50:4711", "10.10.10.100:80", "SYN")
    tunnelled = frames.tcp("10.10.10.50:4711", "10.10.10.100:80", "SYN", tunnel=("10.10.10.11", "20.20.20.12"))
    other = frames.tcp("10.10.10.50:4711", "10.10.10.12:80", "SYN")
    sent = [frames.ethernet(ONE, TWO, inside) for inside in (
        frames.arp(ONE, "10.10.10.50", "10.10.10.11"), frames.ip("10.10.10.11", "224.0.0.18", 112, bytes(8)),
        frames.ip("10.10.10.11", "10.10.10.12", 17, bytes.fromhex("02b602b600080000")), plain, tunnelled, other)]
    passed = {}
    for name in capture.READY:
        with capture.capturing([point(enter, "two", capture.ready_made(name, planned))]) as running:
            send(enter, "one", *sent)
            passed[name] = [sent.index(each.frame) for each in capture.settle(running, 5, silence=0.5)]
    assert passed == {"arp": [0], "vrrp": [1], "heartbeat": [2], "vip": [3, 4]}


def test_times_are_of_one_clock(enter: list[str]) -> None:
    points = [point(enter, name, "tcp") for name in ("one", "two")]
    with capture.capturing(points) as running:
        send(enter, "one", *(request(port) for port in range(80, 90)))
        seen = capture.settle(running, 5, silence=1)

    def times(name: str) -> dict[int, float]:
        return {parse(frame).target_port: time for time, point_, frame in map(Captured._make, seen) if point_ == name}

    left, arrived = times("node:one"), times("node:two")
    assert left.keys() == arrived.keys() == set(range(80, 90))
    assert all(0 <= arrived[port] - left[port] < 1 for port in left)
