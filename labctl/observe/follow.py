"""A request is sent from a lab's client, and followed at the interfaces of all nodes."""

import secrets
import shlex
import time
from collections.abc import Collection
from contextlib import suppress
from ipaddress import IPv4Address
from typing import NamedTuple
from urllib.parse import urlsplit

from labctl.base.errors import LabError, Unreachable
from labctl.base.suggest import did_you_mean
from labctl.labs.lab import Lab
from labctl.machines.host import Ability
from labctl.observe import capture, whynot
from labctl.observe.hops import Trace, hops
from labctl.observe.trace import Server, Sighting, Wires
from labctl.observe.wire import mac_to_node
from labctl.plan.plan import Plan, PlannedNode

REQUEST_SECONDS = 2
"""For the answer; a first packet that is lost is repeated after 1 s."""
_FACTS_SECONDS = 3
_SETTLE_SECONDS = 2
_FILTER = "arp or icmp or ip proto 4 or (tcp and not port 22)"
_HEADER = "X-Labctl-Trace"
_LOWEST_PORT, _PORTS, _PORTS_PER_SECOND = 10_000, 22_000, 32
"""As checks do: IPVS remembers a connection for two minutes, and sends another one from its port to the same server."""


class Target(NamedTuple):
    """What is asked for."""

    url: str
    host: str
    address: IPv4Address
    port: int


def target(plan: Plan, url: str | None) -> Target:
    """What a URL stands for in a lab: of an address, a node or a virtual host; without one the first frontend's.

    Raises LabError for what cannot be asked for.
    """
    frontends = plan.frontends()
    if url is None:
        if not frontends:
            raise LabError(f"The lab '{plan.lab}' has no service to ask.",
                           hint=f"'labctl trace {plan.lab} http://NODE/' asks a node.")
        first = frontends[0]
        port = "" if first.port == 80 else f":{first.port}"
        return Target(f"http://{first.host or first.address}{port}/", first.host or str(first.address), first.address,
                      first.port)
    full = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(full)
        port_number = parts.port or 80
    except ValueError as error:
        raise LabError(f"'{url}' is no URL: {error}.") from None
    if parts.scheme != "http" or not parts.hostname or not url.isprintable():
        raise LabError(f"'{url}' is no URL that can be traced.", hint="Such as http://10.10.10.100/ or http://rs1:8080/.")
    return Target(full, parts.hostname, _address(plan, parts.hostname), port_number)


def _address(plan: Plan, host: str) -> IPv4Address:
    with suppress(ValueError):
        return IPv4Address(host)
    client = client_of(plan)
    networks = [each.network for each in client.interfaces]
    for node in plan.nodes:
        if node.name.lower() == host.lower():
            return min(node.interfaces, key=lambda each: each.network not in networks).address
    names = [name for service in plan.topology.services.values() for name in service.hosts()]
    for frontend in plan.frontends():
        if host in names:
            return frontend.address
    raise LabError(f"Nobody in the lab '{plan.lab}' is called '{host}'.",
                   hint=did_you_mean(host, [*names, *(node.name for node in plan.nodes)]))


def client_of(plan: Plan) -> PlannedNode:
    """The node that requests come from. Raises LabError in a lab without one."""
    clients = plan.clients()
    if not clients:
        raise LabError(f"The lab '{plan.lab}' has no client.", hint="'client: true' makes a node one.")
    return clients[0]


def trace(lab: Lab, url: str | None) -> Trace:
    """Send a request, and follow it to whoever answers, and back. Raises LabError where that cannot be done."""
    lab.host.must(Ability.capture)
    capture.must_be_installed()
    wanted, client = target(lab.plan, url), client_of(lab.plan)
    points = capture.node_points(lab, lab.plan.nodes, _FILTER)
    if not any(point.name.startswith(f"{client.name}:") for point in points):
        lab.must_run(client)
    token = secrets.token_hex(8)
    port = _LOWEST_PORT + int(time.time() * _PORTS_PER_SECOND) % _PORTS
    with capture.capturing(points) as running:
        said = lab.ssh.do(client.name, _request(wanted, port, token), (REQUEST_SECONDS + 10) * lab.patience,
                          f"'{client.name}' cannot send a request")
        seen = capture.settle(running, _SETTLE_SECONDS)
    status, seconds = said.split()[-2:]
    wires = Wires(lab.plan, [sighting(each) for each in seen])
    exchange = wires.exchange(client.name, port, token.encode(), proxied(lab.plan))
    answered = exchange.answer[-1].arrived if exchange.came_back else None
    found = Trace(lab=lab.name, url=wanted.url, client=client.name, status=int(status),
                  milliseconds=round(1000 * float(seconds), 1) if answered else None,
                  hops=tuple(hops(exchange, lab.plan)), remarks=tuple(remarks(wires)))
    broken, last = whynot.last_seen(exchange)
    if broken.came_back and 0 < found.status < 400:
        return found
    states = lab.states() if broken.is_lost else {}
    return found.model_copy(update={"trouble": whynot.trouble(
        wires, exchange, wanted.address, client.name, found.status, states, _facts(lab, last))})


def sighting(captured: capture.Captured) -> Sighting:
    """A frame that was captured at NODE:NETWORK."""
    node, _, network = captured.point.partition(":")
    return Sighting(captured.time, node, network, captured.packet)


def remarks(wires: Wires) -> list[str]:
    """What is wrong beside the request: addresses that several say to have."""
    nodes = mac_to_node(wires.plan.nodes)
    several = {address: sorted(nodes.get(mac, mac) for mac in macs) for address, macs in wires.claims().items()
               if len(macs) > 1}
    return [f"{' and '.join(map(repr, who))} both answer ARP requests for {address}: clients choose one of them by "
            "chance." for address, who in several.items()]


def proxied(plan: Plan) -> dict[str, Collection[Server]]:
    """Where nodes that are proxies pass requests on to, by any address of a server."""
    services = plan.topology.services
    asked: dict[str, set[Server]] = {}
    for name, service in services.items():
        servers = {(each.address, port) for node, port in service.asks(name, services)
                   for each in plan.node(node).interfaces}
        for node in plan.nodes:
            if servers and service.ports_on(node.name):
                asked.setdefault(node.name, set()).update(servers)
    return dict(asked)


def _request(wanted: Target, port: int, token: str) -> str:
    resolve = f"{wanted.host}:{wanted.port}:{wanted.address}"
    words = ["curl", "-s", "-o", "/dev/null", "-g", "--max-time", str(REQUEST_SECONDS), "--local-port", str(port),
             "-H", f"{_HEADER}: {token}", "--resolve", resolve, "-w", "%{http_code} %{time_total}", wanted.url]
    return f"{shlex.join(words)} </dev/null; [ $? -ne 127 ]"


def _facts(lab: Lab, last: Sighting | None) -> whynot.Facts | None:
    if last is None:
        return None
    with suppress(Unreachable):
        script = whynot.questions(last.packet, lab.plan)
        return whynot.facts(lab.ssh.run(last.node, script, _FACTS_SECONDS * lab.patience).stdout)
    return None
