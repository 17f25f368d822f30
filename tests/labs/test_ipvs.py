"""IPVS: who answers, in which order, on which path, and what is done about a dead server."""

import shlex
from ipaddress import IPv4Address

from labctl.base.text import these
from labctl.base.wait import Deadline, until
from labctl.language.services import Ipvs
from labctl.observe.balancing import (
    all_must_answer,
    blame_server,
    director_of,
    director_steps,
    frontend_of,
    is_rotation,
    must_find_back,
    removal_seconds,
    rotation,
    settled_director,
)
from labctl.observe.observer import Observer
from labctl.observe.packet import Packet
from labctl.observe.web import units_of
from labctl.observe.wire import mac_to_node
from labctl.plan.plan import Plan

_ROUNDS = 3
_OWN_PORT = 5001
"""Nobody listens there: what is opened to it is seen all the same."""
_TALKER = "/tmp/labctl-talker"
"""The process that answers with junk."""
_JUNK = "while :; do echo junk | nc -l -p {port} -q 0 || echo junk | nc -l {port}; done"


def test_arp(vip: str, observer: Observer) -> None:
    """only the first director answers ARP for the VIP"""
    service = observer.service(vip, Ipvs)
    first = director_of(service, observer)
    answering = observer.arp_nodes(service.vip)
    if answering == {first}:
        return
    thieves = [node for node in service.real_servers if node in answering]
    if thieves:
        observer.blame(f"Beside the director, {these(thieves, 'answers', 'answer')} ARP requests for the VIP "
                       f"{service.vip}: it takes the director's clients.", *((node, "ipvs/arp") for node in thieves))
    who = these(sorted(answering), "does", "do")
    observer.blame(f"'{first}' should answer ARP requests for the VIP {service.vip}, and it alone; {who}.",
                   *director_steps(service, first, "vip"))


def test_spread(rotating: str, observer: Observer) -> None:
    """requests are spread exactly as the scheduler says"""
    service = observer.service(rotating, Ipvs)
    frontend = frontend_of(service, observer)
    director = settled_director(service, observer)
    table = observer.table(director, service)
    count = _ROUNDS * len(rotation(service.scheduler, service.real_servers))
    answers = observer.sample(service.vip, service.port, count, host=frontend.host)
    all_must_answer(answers, service, observer)
    servers = [answer.server for answer in answers if answer.status == 200]
    if len(servers) < count:
        observer.blame(f"{count - len(servers)} of {count} requests to the VIP got no answer.",
                       *director_steps(service, director, "rules"))
    if table != service.real_servers or not is_rotation(servers, rotation(service.scheduler, table)):
        observer.blame(f"{service.scheduler} should go round {service.real_servers} by their weights; the answers were "
                       f"{' '.join(servers)}.", *director_steps(service, director, "rules"))


def test_packet_path(path: str, observer: Observer) -> None:
    """requests and replies take the path of the forwarding mode"""
    service = observer.service(path, Ipvs)
    frontend = frontend_of(service, observer)
    director = settled_director(service, observer)
    topology = observer.plan.topology
    points = {observer.client_node.name: observer.client_node.interface_to(service.vip),
              director: observer.plan.node(director).interface_to(service.vip)}
    addresses = {}
    for server in service.real_servers:
        addresses[server] = service.server_address(topology, server)
        points[server] = observer.plan.node(server).interface_to(addresses[server])
    expression = f"(tcp port {service.port} or tcp port {service.server_port}) or ip proto 4"
    with observer.capture(points, expression) as frames:
        answers = observer.sample(service.vip, service.port, 2 * sum(service.real_servers.values()), host=frontend.host)
    servers = {answer.server for answer in answers if answer.status == 200}
    for server in service.real_servers:
        if server not in servers:
            blame_server(f"'{server}' did not answer through the VIP, so its packets' path cannot be seen.",
                         service, server, observer,
                         asked=any(frame.target == service.vip for frame in frames[server]))
    check = {"dr": _check_direct, "nat": _check_nat, "tun": _check_tunnel}[service.forward]
    problem = check(service, director, addresses, frames, observer)
    if problem:
        observer.blame(problem, *director_steps(service, director, "rules"))


def _check_direct(service: Ipvs, director: str, addresses: dict[str, IPv4Address], frames: dict[str, list[Packet]],
                  observer: Observer) -> str:
    nodes = mac_to_node(observer.plan.nodes)
    client = observer.client_node
    through = [frame for frame in frames[director] if service.vip in (frame.source, frame.target)]
    arrived = [frame for frame in through if nodes.get(frame.source_mac) == client.name]
    forwarded = {nodes.get(frame.target_mac) for frame in through if nodes.get(frame.source_mac) == director}
    if not arrived or forwarded != set(addresses):
        return (f"Requests should arrive at '{director}' and leave it to the MAC addresses of the real servers; "
                f"{len(arrived)} arrived, and they left to {forwarded or 'nobody'}.")
    senders = {nodes.get(frame.source_mac) for frame in frames[client.name] if frame.source == service.vip}
    if senders != set(addresses):
        return f"Replies should come straight from the real servers' MAC addresses; they came from {senders}."
    return _replies_pass(service, director, frames) or _client_is_seen(service, addresses, frames, observer)


def _check_nat(service: Ipvs, director: str, addresses: dict[str, IPv4Address], frames: dict[str, list[Packet]],
               observer: Observer) -> str:
    nodes = mac_to_node(observer.plan.nodes)
    client = observer.client_node
    senders = {nodes.get(frame.source_mac) for frame in frames[client.name] if frame.source == service.vip}
    if senders != {director}:
        return f"Replies should come from '{director}' with the VIP as their source; they came from {senders}."
    asker = client.interface_to(service.vip).address
    for server, address in addresses.items():
        arrived = {(frame.source, frame.target, frame.target_port) for frame in frames[server]
                   if frame.target == address and frame.source == asker}
        if arrived != {(asker, address, service.server_port)}:
            return (f"Requests should arrive at '{server}' from {asker}, addressed to {address}:{service.server_port}; "
                    f"{arrived or 'none'} arrived.")
        left = {nodes.get(frame.target_mac) for frame in frames[server] if frame.source == address
                and frame.target == asker}
        if left != {director}:
            return f"Replies of '{server}' should leave to '{director}', its gateway; they left to {left or 'nobody'}."
    return ""


def _check_tunnel(service: Ipvs, director: str, addresses: dict[str, IPv4Address], frames: dict[str, list[Packet]],
                  observer: Observer) -> str:
    network = observer.plan.topology.network_of(service.vip)
    ours = observer.plan.topology.nodes[director].addresses[network or ""]
    for server, address in addresses.items():
        tunnels = {frame.tunnel for frame in frames[server] if frame.target == service.vip}
        if {target for _, target in filter(None, tunnels)} != {address} or None in tunnels:
            return (f"Requests should reach '{server}' in a tunnel from '{director}' ({ours}) to {address}; "
                    f"they came in {tunnels or 'none'}.")
    return _replies_pass(service, director, frames) or _client_is_seen(service, addresses, frames, observer)


def _replies_pass(service: Ipvs, director: str, frames: dict[str, list[Packet]]) -> str:
    if any(frame.source == service.vip for frame in frames[director]):
        return f"Replies passed '{director}', which in this mode they never do."
    return ""


def _client_is_seen(service: Ipvs, addresses: dict[str, IPv4Address], frames: dict[str, list[Packet]],
                    observer: Observer) -> str:
    client = observer.client_node.interface_to(service.vip).address
    for server in addresses:
        asked = {frame.source for frame in frames[server] if frame.target == service.vip}
        if asked != {client}:
            return (f"'{server}' should see requests from the client's address {client} only; "
                    f"it saw {', '.join(map(str, asked)) or 'none'}.")
    return ""


def test_long_packets(tunnel: str, observer: Observer) -> None:
    """a request too long for one packet in the tunnel arrives all the same"""
    service = observer.service(tunnel, Ipvs)
    url = f"http://{service.vip}:{service.port}/"
    statuses = observer.client.run(
        "pad=$(printf '%%06000d' 0); for i in $(seq %s); do curl -s -o /dev/null --max-time 8 -w '%%{http_code} ' "
        "-H \"X-Pad: $pad\" %s || break; done", str(2 * len(service.real_servers)), url).stdout.split()
    if set(statuses) != {"200"}:
        message = (f"Requests of 6000 bytes to the VIP got the HTTP statuses {' '.join(statuses)}: packets that "
                   "the tunnel makes longer than the network takes have to be cut up, or their sender told.")
        short = observer.sample(service.vip, service.port, 2 * sum(service.real_servers.values()),
                                host=frontend_of(service, observer).host)
        all_must_answer(short, service, observer, message)
        observer.blame(message, *director_steps(service, director_of(service, observer), "rules"))


def test_own_connections(snat: str, observer: Observer) -> None:
    """connections that a real server opens leave with the director's address"""
    service = observer.service(snat, Ipvs)
    director = director_of(service, observer)
    client = observer.client_node
    interface = client.interface_to(service.vip)
    expected = observer.plan.node(director).interface_to(service.vip).address
    ports = {server: _OWN_PORT + position for position, server in enumerate(service.real_servers)}
    with observer.capture({client.name: interface}, f"tcp portrange {_OWN_PORT}-{max(ports.values())}") as frames:
        for server, port in ports.items():
            observer.host(server).run(f"timeout 8 bash -c ': </dev/tcp/{interface.address}/{port}'")
    for server, port in ports.items():
        sources = {frame.source for frame in frames[client.name] if frame.target_port == port}
        if sources != {expected}:
            message = (f"Connections that '{server}' opens should reach '{client.name}' from {expected}; "
                       f"they came from {', '.join(map(str, sources)) or 'nowhere'}.")
            must_find_back(message, service, server, director, observer)
            observer.blame(message, (director, "ipvs/snat"))


def test_dead_server(checked: str, observer: Observer) -> None:
    """a server that dies leaves the table in time, and comes back when it answers again"""
    service = observer.service(checked, Ipvs)
    frontend = frontend_of(service, observer)
    director = settled_director(service, observer)
    server = next(iter(service.real_servers))
    units = units_of(server, service.server_port, observer)
    bound = removal_seconds(service)
    _must_be_in_table(server, service, director, observer)
    suspect, = director_steps(service, director, "healthcheck")
    with observer.faults.stop_units(server, units):
        if not until(lambda: server not in observer.table(director, service), Deadline(bound)):
            observer.blame(f"'{director}' still sends requests to '{server}' {bound:.0f} s after it stopped serving.",
                           suspect)
        answers = observer.sample(service.vip, service.port, 4, host=frontend.host)
        others = set(service.real_servers) - {server}
        if others and not {answer.server for answer in answers} <= others:
            observer.blame(f"With '{server}' out of the table its requests should go to {others}; they got "
                           f"{[answer.server for answer in answers]}.", suspect)
        if service.health.type == "http":
            _junk_is_no_answer(service, server, director, suspect, observer)
    if not until(lambda: server in observer.table(director, service), Deadline(bound)):
        observer.blame(f"'{director}' does not use '{server}' again {bound:.0f} s after it serves again.", suspect)


def _must_be_in_table(server: str, service: Ipvs, director: str, observer: Observer) -> None:
    if server not in observer.table(director, service):
        blame_server(f"'{server}' is not in the table of '{director}' to begin with.", service, server, observer,
                     asked=False)


def _junk_is_no_answer(service: Ipvs, server: str, director: str, suspect: tuple[str, str], observer: Observer) -> None:
    assert service.health
    talking = shlex.quote(_JUNK.format(port=service.server_port))
    with observer.faults.command(server, f"nohup sh -c {talking} >/dev/null 2>&1 </dev/null & echo $! >{_TALKER}",
                                 f"kill $(cat {_TALKER}); pkill -x nc; rm -f {_TALKER}"):
        until(lambda: server in observer.table(director, service), Deadline(2.5 * service.health.interval))
        if server in observer.table(director, service):
            observer.blame(f"'{director}' takes '{server}' back although its port answers with junk.", suspect)


def test_refused_page(page_checked: str, plan: Plan, observer: Observer) -> None:
    """a server whose port is open but whose page is not served leaves the table as well"""
    service = observer.service(page_checked, Ipvs)
    director = settled_director(service, observer)
    server = list(service.real_servers)[-1]
    _must_be_in_table(server, service, director, observer)
    page = f"{plan.guest.facts['docroot']}/index.html"
    bound = removal_seconds(service)
    suspect, = director_steps(service, director, "healthcheck")
    with observer.faults.command(server, f"chmod 000 {page}", f"chmod 644 {page}"):
        if not until(lambda: server not in observer.table(director, service), Deadline(bound)):
            observer.blame(f"'{director}' still sends requests to '{server}' {bound:.0f} s after its page is refused.",
                           suspect)
    if not until(lambda: server in observer.table(director, service), Deadline(bound)):
        observer.blame(f"'{director}' does not use '{server}' again {bound:.0f} s after its page is back.", suspect)


def test_log(script_checked: str, observer: Observer) -> None:
    """the script that checks the servers logs which ones go and come back"""
    service = observer.service(script_checked, Ipvs)
    director = settled_director(service, observer)
    server = next(iter(service.real_servers))
    address = service.server_address(observer.plan.topology, server)
    units = units_of(server, service.server_port, observer)
    bound = removal_seconds(service)

    def logged(what: str) -> int:
        return observer.says(director, "cat /var/log/ipvsmonitor.log").count(f"{address} is {what}.")

    def must_be_logged(what: str, before: int) -> None:
        if not until(lambda: logged(what) > before, Deadline(bound)):
            observer.blame(f"Nothing in /var/log/ipvsmonitor.log says that {address} is {what}.",
                           (director, "ipvs/healthcheck"))

    before = logged("gone")
    with observer.faults.stop_units(server, units):
        must_be_logged("gone", before)
        before = logged("back")
    must_be_logged("back", before)
