"""Frames are captured at points of a lab's private room: by tcpdump, one for each point, from outside the nodes."""

import queue
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import IO, NamedTuple

import dpkt

from labctl.base.errors import LabError
from labctl.base.machine import install
from labctl.base.process import Running, listening, run
from labctl.base.suggest import did_you_mean
from labctl.base.wait import Deadline, pieces, until
from labctl.labs.lab import Lab
from labctl.machines.host import Ability
from labctl.observe.packet import HEARTBEAT_PORT, Packet, parse
from labctl.plan.domain import tap_mac
from labctl.plan.plan import Interface, Plan, PlannedNode

_SNAPLEN = 262_144
"""tcpdump's own; larger than any frame."""
_START_SECONDS = 30
_GUEST_SECONDS = 60
"""A node that captures itself ends it by then, if labctl has not."""
_DROPPED = "dropped by kernel"


class Point(NamedTuple):
    """A place where frames are captured."""

    name: str
    """NODE:NETWORK, or NETWORK for all frames on a segment."""
    argv: Sequence[str | Path]
    """What prints the frames there in pcap's format."""


class Captured(NamedTuple):
    """A frame."""

    time: float
    """Seconds since 1970, by the clock of the machine that captured it."""
    point: str
    frame: bytes

    @property
    def packet(self) -> Packet:
        """What is in it."""
        return parse(self.frame)


# ---- Points ----------------------------------------------------------------------------------------------------


def points(lab: Lab, targets: Sequence[str], expression: str) -> list[Point]:
    """The points that people mean by NODE, NODE:NETWORK and NETWORK; all networks where there are no targets.

    Raises LabError for a name that is unknown, a node that is off, and a place where nothing can be captured.
    """
    lab.host.must(Ability.capture)
    must_be_installed()
    taps = lab.host.taps()
    found: list[Point] = []
    for target in targets or [network.name for network in lab.plan.networks]:
        found += _points(lab, target, taps, expression)
    return list({point.name: point for point in found}.values())


def must_be_installed() -> None:
    """Raise LabError if there is nothing that captures."""
    if not shutil.which("tcpdump"):
        raise LabError("tcpdump, which captures packets, is not installed.",
                       hint=f"'{install('tcpdump', 'tcpdump')}' installs it.")


def must_be_filter(expression: str) -> None:
    """Raise LabError for what is no filter of pcap's."""
    result = run(["tcpdump", "-y", "EN10MB", "-d", "--", expression], check=False, timeout=_START_SECONDS)
    if result.returncode:
        said = (result.stderr.strip().splitlines() or ["tcpdump gives no reason"])[-1]
        reason = said.removeprefix("tcpdump: ").removeprefix("can't parse filter expression: ")
        raise LabError(f"'{expression}' is no filter of pcap's: {reason}.",
                       hint="Such as 'tcp port 80 and host 10.10.10.100'; 'man pcap-filter' explains them.")


def _points(lab: Lab, target: str, taps: dict[str, str], expression: str) -> Iterator[Point]:
    name, colon, network = target.partition(":")
    plan = lab.plan
    bridges = {planned.name: planned.bridge for planned in plan.networks}
    if name in (node.name for node in plan.nodes):
        node = plan.node(name)
        networks = [interface.network for interface in node.interfaces]
        if colon and network not in networks:
            raise LabError(f"The node '{name}' is on no network '{network}'.", hint=did_you_mean(network, networks))
        for interface in node.interfaces:
            if not colon or interface.network == network:
                if tap_mac(interface.mac) not in taps:
                    lab.must_run(node)
                    raise LabError(f"The interface of '{name}' on '{interface.network}' cannot be found.",
                                   hint=f"'labctl reboot --force {lab.name}/{name}' makes it anew.")
                yield point(lab, f"{name}:{interface.network}", taps[tap_mac(interface.mac)], expression)
    elif target in bridges:
        yield point(lab, target, bridges[target], expression)
    else:
        known = [*(node.name for node in plan.nodes), *bridges]
        raise LabError(f"The lab '{lab.name}' has no node and no network called '{target}'.",
                       hint=did_you_mean(name, known))


def node_points(lab: Lab, nodes: Sequence[PlannedNode], expression: str) -> list[Point]:
    """All interfaces of nodes, of those that run."""
    taps = lab.host.taps()
    return [point(lab, f"{node.name}:{interface.network}", taps[tap_mac(interface.mac)], expression)
            for node in nodes for interface in node.interfaces if tap_mac(interface.mac) in taps]


def point(lab: Lab, name: str, device: str, expression: str) -> Point:
    """A point at an interface of the room."""
    # It ends with labctl, also where that is killed. Without '-Z root' it would become a user that the room has not.
    return Point(name, lab.host.inside(["setpriv", "--pdeathsig", "KILL", *tcpdump(device, "-Z", "root"),
                                        "--", expression]))


def anywhere(lab: Lab, interfaces: Mapping[str, Interface], expression: str) -> list[Point]:
    """Points that are called after nodes, at an interface of each; on the nodes themselves where there is no room."""
    if Ability.capture in lab.host.abilities and shutil.which("tcpdump"):
        taps = lab.host.taps()
        return [point(lab, node, taps[tap_mac(interface.mac)], expression) for node, interface in interfaces.items()
                if tap_mac(interface.mac) in taps]
    # A shared connection would keep the output open for as long as the program there runs.
    return [Point(node, lab.ssh.command(node, shlex.join(
        ["timeout", str(_GUEST_SECONDS), *tcpdump(interface.name), "--", expression]), alone=True))
            for node, interface in interfaces.items()]


def tcpdump(device: str, *options: str) -> list[str]:
    """The command line that prints the frames at an interface in pcap's format, each at once; a filter may follow."""
    return ["tcpdump", "-i", device, "-w", "-", "-U", "--immediate-mode", *options]


# ---- Filters ---------------------------------------------------------------------------------------------------

READY = ("arp", "vrrp", "vip", "heartbeat")
"""The names of the filters that are ready-made."""


def ready_made(name: str, plan: Plan) -> str:
    """A ready-made filter. Raises LabError for that of VIPs in a lab without one."""
    match name:
        case "vrrp":
            return "ip proto 112"
        case "heartbeat":
            return f"udp port {HEARTBEAT_PORT}"
        case "vip":
            vips = dict.fromkeys(vip for service in plan.topology.services.values() for vip in service.vips)
            if not vips:
                raise LabError(f"The lab '{plan.lab}' has no VIP.", hint="'--filter' takes any filter of pcap's.")
            return either([_of(vip) for vip in vips])
    return name


def _of(vip: IPv4Address) -> str:
    # In a tunnel source and target come after the outer header of 20 bytes.
    return f"host {vip} or (ip proto 4 and (ip[32:4] = {int(vip):#x} or ip[36:4] = {int(vip):#x}))"


def either(expressions: Sequence[str]) -> str:
    """What one of several filters lets through."""
    return " or ".join(f"({expression})" for expression in expressions)


# ---- Frames ----------------------------------------------------------------------------------------------------


class Capture:
    """Frames as they come, from all points."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}
        """Points at which nothing comes any more, and what tcpdump says to that."""
        self._came: queue.SimpleQueue[Captured] = queue.SimpleQueue()
        self._processes: list[Running] = []
        self._threads: list[threading.Thread] = []
        self._listen: set[str] = set()

    def start(self, places: Sequence[Point], stack: ExitStack) -> None:
        """Start at all points, and return once they listen. Raises LabError."""
        for place in places:
            process = stack.enter_context(listening(place.argv))
            self._processes.append(process)
            self._threads.append(threading.Thread(target=self._read, args=(place.name, process), daemon=True))
            self._threads[-1].start()
        until(lambda: self.ended or len(self._listen) == len(places), Deadline(_START_SECONDS), interval=0.01)
        for name in [*self.ended, *(place.name for place in places if place.name not in self._listen)]:
            lines = self.ended.get(name, "").splitlines() or ["tcpdump does not begin"]
            said = next((line.removeprefix("tcpdump: ") for line in lines if line.startswith("tcpdump: ")), lines[-1])
            raise LabError(f"At '{name}' nothing can be captured: {said}.")

    def frames(self, deadline: Deadline) -> Iterator[Captured | None]:
        """Frames until the deadline, or until all points have ended; None whenever there is none at the moment."""
        for piece in pieces(deadline):
            with suppress(queue.Empty):
                yield self._came.get(timeout=piece)
                while True:
                    yield self._came.get_nowait()
            yield None
            if not any(thread.is_alive() for thread in self._threads) and self._came.empty():
                return

    def stop(self) -> list[Captured]:
        """End it; returns what has come and was not asked for yet."""
        for process in self._processes:
            process.terminate()
        for thread in self._threads:
            thread.join()
        return list(self.frames_left())

    def frames_left(self) -> Iterator[Captured]:
        """What has come and was not asked for yet."""
        with suppress(queue.Empty):
            while True:
                yield self._came.get_nowait()

    @property
    def dropped(self) -> int:
        """How many frames tcpdump was too slow for, once it has ended."""
        lines = [line for said in self.ended.values() for line in said.splitlines() if line.endswith(_DROPPED)]
        return sum(int(line.split()[0]) for line in lines)

    def _read(self, name: str, process: Running) -> None:
        assert process.stdout and process.stderr
        # What it says fits into the pipe until it has ended.
        with suppress(dpkt.NeedData):
            reader = dpkt.pcap.Reader(process.stdout)
            self._listen.add(name)
            for time, frame in reader:
                self._came.put(Captured(float(time), name, frame))
        self.ended[name] = process.stderr.read().decode(errors="replace")


@contextmanager
def capturing(places: Sequence[Point]) -> Iterator[Capture]:
    """Capture at points during the block; the frames are in no strict order.

    Raises LabError for a point at which that does not work.
    """
    capture = Capture()
    with ExitStack() as stack:
        try:
            capture.start(places, stack)
            yield capture
        finally:
            capture.stop()  # A thread that reads has to be through before what it reads from is closed.


def settle(capture: Capture, seconds: float, silence: float = 0.15) -> list[Captured]:
    """All frames until nothing has come for a moment, or so many seconds are over."""
    found: list[Captured] = []
    deadline = Deadline(seconds)
    quiet = Deadline(silence)
    for captured in capture.frames(deadline):
        if captured:
            found.append(captured)
            quiet = Deadline(silence)
        elif quiet.expired:
            break
    return found + capture.stop()


# ---- Files -----------------------------------------------------------------------------------------------------


def pcapng(file: IO[bytes], names: Sequence[str]) -> Callable[[Captured], None]:
    """Begin a pcapng file with an interface for each point; returns what writes a frame to it."""
    options = dpkt.pcapng
    writer = options.Writer(file, idb=[options.InterfaceDescriptionBlockLE(snaplen=_SNAPLEN, opts=[
        options.PcapngOptionLE(code=options.PCAPNG_OPT_IF_NAME, data=name.encode()),
        options.PcapngOptionLE(code=options.PCAPNG_OPT_ENDOFOPT)]) for name in names])
    numbers = {name: number for number, name in enumerate(names)}

    def write(captured: Captured) -> None:
        block = options.EnhancedPacketBlockLE(iface_id=numbers[captured.point], pkt_data=captured.frame)
        writer.writepkt(block, ts=captured.time)

    return write
