"""What can be observed in a lab: who answers, from which MAC address, for how long nobody; and whom to suspect."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NoReturn

import pytest
from testinfra.host import Host

from labctl.lab import Lab
from labctl.plan import PlannedNode
from labctl.services import Ipvs
from labctl.wait import Deadline, until

REQUEST_SECONDS = 4
_LOWEST_PORT, _PORTS, _PORTS_PER_SECOND = 10_000, 22_000, 32
"""Below the range that the kernel chooses from (32768 and above), and around once in eleven minutes."""
_PROBE_SECONDS = 0.3
_FRAME = re.compile(
    r"(?P<source_mac>[0-9a-f:]{17}) > (?P<target_mac>[0-9a-f:]{17}), .*?: "
    r"(?P<source>[\d.]+)\.(?P<source_port>\d+) > (?P<target>[\d.]+)\.(?P<target_port>\d+): Flags \[(?P<flags>[^]]+)\]")


@dataclass(frozen=True)
class Frame:
    """A TCP segment as it was on the wire."""

    source_mac: str
    target_mac: str
    source: IPv4Address
    target: IPv4Address
    flags: str


@dataclass(frozen=True)
class Answer:
    """What a request got: HTTP status 0 is no answer at all."""

    status: int
    page: str


class Observer:
    """Looks at a lab from its client and, where that cannot tell, from its nodes."""

    def __init__(self, lab: Lab, host: Callable[[str], Host]) -> None:
        self.lab = lab
        self.plan = lab.plan
        self.host = host
        self._next_port = 0

    @property
    def client_node(self) -> PlannedNode:
        """The node that requests come from."""
        return self.plan.clients()[0]

    @property
    def client(self) -> Host:
        """The same as a testinfra host."""
        return self.host(self.client_node.name)

    # ---- Requests -----------------------------------------------------------------------------------------

    def sample(self, address: IPv4Address, port: int, count: int) -> list[Answer]:
        """Make `count` requests one after the other, each on a connection of its own."""
        first = self._fresh_ports(count)
        result = self.client.run(
            "for local in $(seq %s %s); do "
            "curl -s -H 'Connection: close' --max-time %s --local-port $local -w %s %s; done",
            str(first), str(first + count - 1), str(REQUEST_SECONDS), "%{http_code}\\n", f"http://{address}:{port}/")
        answers, page = [], ""
        for line in result.stdout.splitlines():
            match = re.fullmatch(r"(.*?)(\d{3})", line)
            if match:
                answers.append(Answer(int(match[2]), (page + match[1]).strip()))
                page = ""
            else:
                page += line + "\n"
        return answers

    def _fresh_ports(self, count: int) -> int:
        """The first of `count` local ports that no check has used for some minutes.

        IPVS remembers a connection for two minutes after its end and, in direct routing, sends a new one from the
        same port to the same server again (conn_reuse_mode in the kernel's ipvs-sysctl.rst). The kernel's own
        choice of ports comes back to one often enough to spoil a count.
        """
        self._next_port = max(self._next_port, int(time.time()) * _PORTS_PER_SECOND) + count
        return _LOWEST_PORT + (self._next_port - count) % _PORTS

    def holders(self, service: Ipvs) -> list[str]:
        """The directors that have the VIP on the interface to its segment."""
        found = []
        states = self.lab.states()
        for name in service.directors.nodes:
            if states[name] != "running":
                continue
            interface = self.plan.node(name).interface_to(service.vip).name
            command = "ip -o -4 address show dev %s to %s"
            if self.host(name).run(command, interface, str(service.vip)).stdout.strip():
                found.append(name)
        return found

    def arp_nodes(self, address: IPv4Address) -> set[str]:
        """Who answers the client's ARP requests for an address: nodes, or a MAC address that is no node's."""
        interface = self.client_node.interface_to(address).name
        result = self.client.run("arping -b -c 3 -w 4 -I %s %s", interface, str(address))
        nodes = mac_to_node(self.plan.nodes)
        macs = {mac.lower() for mac in re.findall(r"\[([0-9A-Fa-f:]{17})\]", result.stdout)}
        return {nodes.get(mac, mac) for mac in macs}

    def table(self, director: str, service: Ipvs) -> dict[str, int]:
        """The real servers in a director's IPVS table with a weight above zero: node to weight."""
        names = {str(self.plan.node(server).interface_to(service.vip).address): server
                 for server in service.real_servers}
        output = self.host(director).run("ipvsadm -Ln -t %s", f"{service.vip}:{service.port}").stdout
        rows = re.findall(r"-> ([\d.]+):\d+\s+\w+\s+(\d+)", output)
        return {names[address]: int(weight) for address, weight in rows if address in names and int(weight)}

    # ---- Frames ---------------------------------------------------------------------------------------------

    @contextmanager
    def capture(self, nodes: Sequence[str], address: IPv4Address, port: int) -> Iterator[dict[str, list[Frame]]]:
        """Capture on several nodes what goes to and from an address and port; filled in at the end of the block."""
        frames: dict[str, list[Frame]] = {name: [] for name in nodes}
        for name in nodes:
            interface = self.plan.node(name).interface_to(address).name
            self.host(name).run(
                "rm -f /tmp/labctl-capture*; nohup timeout 60 tcpdump -i %s -e -n -l -s 128 %s "
                ">/tmp/labctl-capture 2>/tmp/labctl-capture.err </dev/null &",
                interface, f"host {address} and tcp port {port}")
        for name in nodes:
            ready = "for i in $(seq 100); do grep -q listening /tmp/labctl-capture.err && exit; sleep 0.2; done; exit 1"
            if self.host(name).run(ready).rc:
                raise RuntimeError(f"tcpdump does not start on '{name}'")
        try:
            yield frames
        finally:
            for name in nodes:
                output = self.host(name).run("pkill -INT tcpdump; sleep 0.5; cat /tmp/labctl-capture; "
                                             "rm -f /tmp/labctl-capture*").stdout
                frames[name] += [
                    Frame(match["source_mac"], match["target_mac"], IPv4Address(match["source"]),
                          IPv4Address(match["target"]), match["flags"])
                    for match in map(_FRAME.search, output.splitlines()) if match]

    # ---- Time without service -----------------------------------------------------------------------------------

    @contextmanager
    def probing(self, service: Ipvs) -> Iterator[Callable[[], list[tuple[float, bool]]]]:
        """Keep asking the VIP from the client; the function tells when each request began, and if it succeeded."""
        # One request after the other, timed by the client's own clock.
        loop = (f"while :; do t=$(date +%s.%N); timeout {_PROBE_SECONDS} curl -s -o /dev/null "
                f"http://{service.vip}:{service.port}/ && echo $t 1 || echo $t 0; done")
        pid = self.client.run("nohup sh -c %s >/tmp/labctl-probe 2>/dev/null </dev/null & echo $!", loop).stdout.strip()

        def so_far() -> list[tuple[float, bool]]:
            lines = self.client.run("cat /tmp/labctl-probe").stdout.splitlines()
            return [(float(moment), good == "1") for moment, _, good in (line.partition(" ") for line in lines)
                    if good in ("0", "1")]

        def settled() -> bool:
            return sum(good for _, good in so_far()) >= 5

        try:
            if not until(settled, Deadline(10 * self.lab.patience)):
                pytest.fail(f"The VIP {service.vip} did not answer before anything was broken.", pytrace=False)
            yield so_far
        finally:
            self.client.run("kill %s; rm -f /tmp/labctl-probe", pid)

    # ---- Whom to suspect -----------------------------------------------------------------------------------------

    def blame(self, message: str, *suspects: tuple[str, str]) -> NoReturn:
        """Fail the check, naming the steps (node, kind such as `ipvs/arp`) that look wrong."""
        lines = [message]
        for node, kind in dict.fromkeys(suspects):
            for step in self.plan.node(node).steps:
                if step.kind == kind:
                    lines.append(f"The step {node}/{step.name} looks wrong: {step.title}. "
                                 f"'labctl apply {node}/{step.name}' does it again.")
        pytest.fail("\n".join(lines), pytrace=False)

    def director_steps(self, service: Ipvs, kind: str) -> list[tuple[str, str]]:
        """The steps on the first director that are there for the VIP (`vip`) or for the table (`rules`)."""
        step = "ipvs/keepalived" if service.directors.keepalived else f"ipvs/{kind}"
        return [(service.directors.nodes[0], step)]

    def blame_silent_server(self, message: str, service: Ipvs, server: str, asked: bool) -> NoReturn:
        """Fail because a real server does not answer through the VIP; find out how far it gets by itself.

        `asked` says whether requests were sent to it at all, and went unanswered.
        """
        own = self.plan.node(server).interface_to(service.vip).address
        answers = self.sample(own, service.port, 1)
        if not answers or not answers[0].status:
            self.blame(message, (server, "httpd/httpd"))
        if answers[0].page != server:
            self.blame(message, (server, "httpd/page"))
        answering = self.arp_nodes(service.vip)
        thieves = [node for node in service.real_servers if node in answering]
        if thieves:
            self.blame(message, *((node, "ipvs/arp") for node in thieves))
        if not asked:
            self.blame(message, *self.director_steps(service, "rules"))
        self.blame(message, (server, "ipvs/vip-lo"))

    def settled(self, service: Ipvs) -> list[str]:
        """The holders of the VIP, once directors that just started have had VRRP's time to agree."""
        first = service.directors.nodes[0]
        seconds = 2 * service.takeover_seconds(first) if service.directors.keepalived else 0
        until(lambda: self.holders(service) == [first], Deadline(seconds))
        return self.holders(service)


def periods(answers: Sequence[str], length: int) -> list[Sequence[str]]:
    """A sequence in pieces of `length`."""
    return [answers[start:start + length] for start in range(0, len(answers), length)]


def longest_gap(probes: Sequence[tuple[float, bool]]) -> float:
    """Seconds from the last success before a failure to the first one after it; 0 where nothing failed."""
    longest, last_good, failing = 0.0, probes[0][0], False
    for moment, good in probes:
        if good:
            if failing:
                longest = max(longest, moment - last_good)
            last_good, failing = moment, False
        else:
            failing = True
    return longest


def mac_to_node(nodes: Sequence[PlannedNode]) -> dict[str, str]:
    """Each interface's MAC address to its node."""
    return {interface.mac: node.name for node in nodes for interface in node.interfaces}
