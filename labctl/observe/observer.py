"""Observing a lab: which node answers, from which MAC address, how long none does; and which steps to suspect."""

import re
import shlex
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import NoReturn, TypeVar

from testinfra.host import Host

from labctl.base.errors import LabError
from labctl.base.wait import Deadline, until
from labctl.labs.lab import Lab
from labctl.language.services import Frontend, Ipvs, Service
from labctl.observe import capture, hosts
from labctl.observe.faults.faults import Faults
from labctl.observe.packet import Packet
from labctl.observe.verdict import CheckFailed
from labctl.observe.wire import Answer, Connection, Load, connections, mac_to_node
from labctl.plan.plan import Interface, PlannedNode
from labctl.plan.steps import Step

ServiceType = TypeVar("ServiceType", bound=Service)

LOOK_SECONDS = 1
"""Between two questions about who holds an address, which take emulated nodes' time from moving it."""
REQUEST_SECONDS = 2.5
"""For one request; long enough for a SYN that is lost and repeated after 1 s."""
_LOWEST_PORT, _PORTS, _PORTS_PER_SECOND = 10_000, 22_000, 32
"""Local ports below the range from which the kernel chooses (32768 and above); they repeat after eleven minutes."""
_HELD = "/tmp/labctl-held"
"""The file with the ids of processes that hold connections open."""
_HEARD = "/tmp/labctl-heard"
_SETTLE_SECONDS = 5
"""For what is on its way to be captured."""
_PROGRAMS = Path(__file__).parent / "guest"


_SERVER = re.compile(r"-> ([\d.]+):\d+\s+\w+\s+(\d+)\s+(\d+)\s+(\d+)")
"""A real server in the output of `ipvsadm -Ln`: address, weight, active and inactive connections."""


class Observer:
    """Looks at a lab from its client and, if the client cannot tell, from its nodes."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.plan = lab.plan
        self.faults = Faults(lab, by="check")
        self._next_port = 0
        self._next_source = 0

    @property
    def client_node(self) -> PlannedNode:
        """The node that sends requests."""
        return self.plan.clients()[0]

    def host(self, node: str) -> Host:
        """A node as a testinfra host."""
        return hosts.host(self.lab, node)

    @property
    def client(self) -> Host:
        """The client as a testinfra host."""
        return self.host(self.client_node.name)

    def service(self, name: str, kind: type[ServiceType]) -> ServiceType:
        """The service of this name, which has to be of this kind."""
        service = self.plan.topology.services[name]
        assert isinstance(service, kind)
        return service

    def says(self, node: str, command: str) -> str:
        """The output of a command on a node."""
        return str(self.host(node).run(command).stdout.strip())

    # ---- Requests -----------------------------------------------------------------------------------------

    def sample(self, address: IPv4Address, port: int, count: int, *, host: str | None = None,
               start: str | None = None, source: IPv4Address | None = None) -> list[Answer]:
        """Make `count` requests one after the other, each on a new connection; stops early if there are no answers.

        `host` is the Host header, `start` the node that sends them (by default the client), `source` their source
        address.
        """
        first = self.fresh_ports(count)
        asking = self.python("asker", address, port, host or address, REQUEST_SECONDS, source or "", first, count)
        lines = self.says(start or self.client_node.name, asking).splitlines()
        answers = [line.partition(" ") for line in lines]
        return [Answer(int(status), page.encode().decode("unicode_escape").strip()) for status, _, page in answers]

    def python(self, program: str, *arguments: object) -> str:
        """The command that runs one of the programs in `guest` with a node's Python."""
        code = (_PROGRAMS / f"{program}.py").read_text()
        return shlex.join(map(str, [self.plan.guest.facts["python"], "-S", "-E", "-c", code, *arguments]))

    def neighbour(self, node: str) -> str:
        """The node that can ask a node at its own address: a client on its network, else another node, else itself."""
        others = [other for other in (*self.plan.clients(), *self.plan.nodes) if other.name != node]
        return next((other.name for other in others if share_network(self.plan.node(node), other)), node)

    def own_address(self, asker: str, node: str) -> IPv4Address:
        """The address of a node on a network that it shares with the asker."""
        networks = {interface.network for interface in self.plan.node(asker).interfaces}
        return next(interface.address for interface in self.plan.node(node).interfaces
                    if interface.network in networks)

    def fresh_ports(self, count: int) -> int:
        """The first of `count` local ports that no check has used for some minutes.

        IPVS remembers a connection for two minutes after its end and, in direct routing, sends a new one from the
        same port to the same server again (conn_reuse_mode in the kernel's ipvs-sysctl.rst). The kernel's own
        choice of ports comes back to one often enough to spoil a count.
        """
        self._next_port = max(self._next_port, int(time.time()) * _PORTS_PER_SECOND) + count
        return _LOWEST_PORT + (self._next_port - count) % _PORTS

    def holders(self, frontend: Frontend, among: Collection[str] = ()) -> list[str]:
        """The nodes that have the address, and all addresses that belong together with it, on the right interfaces.

        With `among`, only those nodes are asked.
        """
        found = []
        states = self.lab.states()
        for name in among or frontend.holders:
            if states[name] != "running":
                continue
            commands = [f"ip -o -4 address show dev {self.plan.node(name).interface_to(address).name} to {address}"
                        for address in (frontend.address, *frontend.together)]
            if len(self.host(name).run("; ".join(commands)).stdout.splitlines()) == len(commands):
                found.append(name)
        return found

    def holds_alone(self, node: str, frontend: Frontend) -> bool:
        """Whether a node, and no other, has the address. The others, which may be busy giving it up, are asked last."""
        return node in self.holders(frontend, [node]) and self.holders(frontend) == [node]

    def arp_nodes(self, address: IPv4Address) -> set[str]:
        """The nodes that answer the client's ARP requests for an address; unknown MAC addresses as they are."""
        interface = self.client_node.interface_to(address).name
        result = self.client.run("arping -b -c 3 -w 4 -I %s %s", interface, str(address))
        nodes = mac_to_node(self.plan.nodes)
        macs = {mac.lower() for mac in re.findall(r"\[([0-9A-Fa-f:]{17})\]", result.stdout)}
        return {nodes.get(mac, mac) for mac in macs}

    def table(self, director: str, service: Ipvs) -> dict[str, int]:
        """The weights, above 0, of the real servers in a director's IPVS table, in the kernel's order."""
        names = {str(service.server_address(self.plan.topology, server)): server for server in service.real_servers}
        rows = _SERVER.findall(self.says(director, f"ipvsadm -Ln --nosort {service.virtual}"))
        return {names[address]: int(weight) for address, weight, *_ in rows if address in names and int(weight)}

    def load(self, director: str, service: Ipvs) -> dict[str, Load]:
        """The connections that a director counts for each real server."""
        names = {str(service.server_address(self.plan.topology, server)): server for server in service.real_servers}
        rows = _SERVER.findall(self.says(director, f"ipvsadm -Ln --nosort {service.virtual}"))
        return {names[address]: Load(int(active), int(inactive)) for address, _, active, inactive in rows
                if address in names}

    def connections(self, director: str) -> list[Connection]:
        """A director's connection table."""
        output = self.host(director).run("ipvsadm -Lnc").stdout
        return connections(output)

    @contextmanager
    def sources(self, service: Ipvs, count: int) -> Iterator[list[IPv4Address]]:
        """Give the client additional addresses on the VIP's network that were not used for some minutes."""
        interface = self.client_node.interface_to(service.vip)
        network = IPv4Network(f"{interface.address}/{interface.prefix}", strict=False)
        services = self.plan.topology.services
        taken = {each.address for node in self.plan.nodes for each in node.interfaces} | {
            planned.host for planned in self.plan.networks} | {
            address for frontend in self.plan.frontends() for address in (frontend.address, *frontend.together)} | {
            address for other in services.values() if isinstance(other, Ipvs)
            for address in (*other.vips, other.gateway)}
        start = max(self._next_source, int(time.time()))
        self._next_source = start + count + len(taken)
        chosen = free_addresses(network, taken, start, count)
        on = "; ".join(f"ip address add {address}/32 dev {interface.name}" for address in chosen)
        off = "; ".join(f"ip address del {address}/32 dev {interface.name}" for address in chosen)
        with self.faults.command(self.client_node.name, on, off):
            yield chosen

    @contextmanager
    def holding(self, address: IPv4Address, port: int, count: int) -> Iterator[list[int]]:
        """Open connections one after the other and keep them open; yields their local ports."""
        first = self.fresh_ports(count)
        ports = list(range(first, first + count))
        opening = (f"for local in {' '.join(map(str, ports))}; do "
                   f"sleep 60 2>/dev/null | nc -p $local {address} {port} >/dev/null 2>&1 & "
                   "for i in $(seq 50); do ss -Htn state established sport = :$local | grep -q . && break; sleep 0.1; "
                   f"done; echo $! >>{_HELD}; done")
        with self.faults.command(self.client_node.name, opening, f"kill $(cat {_HELD}); rm -f {_HELD}"):
            yield ports

    # ---- Frames ---------------------------------------------------------------------------------------------

    @contextmanager
    def capture(self, points: Mapping[str, Interface], expression: str) -> Iterator[dict[str, list[Packet]]]:
        """Capture TCP at an interface of each node, by a filter of pcap's; filled in at the end of the block."""
        seen: dict[str, list[Packet]] = {name: [] for name in points}
        with capture.capturing(capture.anywhere(self.lab, points, expression)) as running:
            yield seen
            for captured in capture.settle(running, _SETTLE_SECONDS, silence=0.5):
                packet = captured.packet
                if packet.protocol == "tcp":
                    seen[captured.point].append(packet)

    @contextmanager
    def hearing(self, node: str, address: IPv4Address, expression: str) -> Iterator[Callable[[], str]]:
        """Capture packets on the segment of an address; the yielded function returns tcpdump's listing so far."""
        listen = (f"nohup timeout 300 tcpdump -i {self.plan.node(node).interface_to(address).name} -n -l -A -v "
                  f"{shlex.quote(expression)} >{_HEARD} 2>{_HEARD}.err </dev/null & echo $! >{_HEARD}.pid; "
                  f"for i in $(seq 100); do grep -q listening {_HEARD}.err && exit; sleep 0.2; done; exit 1")
        with self.faults.command(node, listen, f"kill $(cat {_HEARD}.pid); rm -f {_HEARD}*"):
            yield lambda: self.says(node, f"cat {_HEARD}")

    # ---- Whom to suspect -----------------------------------------------------------------------------------------

    def serving(self, node: str, port: int) -> list[Step]:
        """The steps that make a node answer HTTP on a port."""
        topology = self.plan.topology
        serving = {name: service for name, service in topology.services.items() if port in service.ports_on(node)}
        kinds = {placement.step for name, service in serving.items()
                 for placement in service.placements(topology, name, topology.services) if placement.node == node}
        steps = [step for step in self.plan.node(node).steps if step.kind in kinds]
        own = {step.kind for step in steps if step.service in serving}
        # A step that services share belongs to the first of them, which need not be one of these.
        return [step for step in steps if step.service in serving or step.kind not in own]

    def blame(self, message: str, *suspects: tuple[str, str]) -> NoReturn:
        """Fail the check, naming the steps (node, kind such as `ipvs/arp`) that look wrong.

        If some of them are known to be undone, only these are named.
        """
        steps = [(node, step) for node, kind in dict.fromkeys(suspects)
                 for step in self.plan.node(node).steps if step.kind == kind]
        applied = self.lab.applied(self.lab.states()) if len(steps) > 1 else {}
        undone = [(node, step) for node, step in steps
                  if applied.get(node) is not None and step.name not in (applied[node] or ())]
        raise CheckFailed(message, [f"{node}/{step.name}" for node, step in undone or steps])

    def settled(self, frontend: Frontend) -> list[str]:
        """The holders of the address, after nodes that just started have had time to agree."""
        def agreed() -> bool:
            holders = self.holders(frontend)
            first_again = frontend.failover is None or frontend.failover.returns
            return holders == [frontend.holders[0]] or (len(holders) == 1 and not first_again)

        until(agreed, Deadline(2 * frontend.failover.crash_seconds if frontend.failover else 0), LOOK_SECONDS)
        return self.holders(frontend)


def share_network(one: PlannedNode, other: PlannedNode) -> bool:
    """Whether two nodes are on the same network."""
    return bool({each.network for each in one.interfaces} & {each.network for each in other.interfaces})


def free_addresses(network: IPv4Network, taken: Collection[IPv4Address | None], start: int,
                   count: int) -> list[IPv4Address]:
    """Free host addresses in a network, beginning with number `start` and wrapping around.

    Raises LabError if there are too few.
    """
    hosts = network.num_addresses - 2
    candidates = (network.network_address + 1 + (start + position) % hosts
                  for position in range(min(hosts, count + len(taken))))
    free = [address for address in candidates if address not in taken][:count]
    if len(free) < count:
        raise LabError(f"The network {network} has {len(free)} free addresses, and this check needs {count}.")
    return free
