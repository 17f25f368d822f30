"""IPVS by direct routing: who answers, in which order, on which path, and what survives."""

from collections import Counter
from collections.abc import Callable
from functools import reduce
from math import gcd

from observe import Observer, longest_gap, mac_to_node, periods
from testinfra.host import Host

from labctl.lab import Lab
from labctl.plan import Plan
from labctl.progress import Gate
from labctl.services import Ipvs
from labctl.wait import Deadline, until

_ROUNDS = 3
_NOTICED_SECONDS = 2
"""Beside VRRP's own time: the address and its ARP announcement, and the client's next request."""
_STOPPED_SECONDS = 2


def _service(plan: Plan, name: str) -> Ipvs:
    service = plan.topology.services[name]
    assert isinstance(service, Ipvs)
    return service


def _shares(service: Ipvs) -> dict[str, int]:
    """How many requests of one round each server gets: rr ignores weights, wrr reduces them (ip_vs_wrr.c)."""
    if service.scheduler == "rr":
        return dict.fromkeys(service.real_servers, 1)
    divisor = reduce(gcd, service.real_servers.values())
    return {server: weight // divisor for server, weight in service.real_servers.items()}


def test_arp(ipvs: str, plan: Plan, observer: Observer) -> None:
    """only the first director answers ARP for the VIP"""
    service = _service(plan, ipvs)
    first = service.directors.nodes[0]
    observer.settled(service)
    answering = observer.arp_nodes(service.vip)
    if answering == {first}:
        return
    thieves = [node for node in service.real_servers if node in answering]
    if thieves:
        observer.blame(f"Beside the director, {' and '.join(map(repr, thieves))} answers ARP requests for the VIP "
                       f"{service.vip}: it takes the director's clients.", *((node, "ipvs/arp") for node in thieves))
    who = " and ".join(map(repr, sorted(answering))) or "nobody"
    observer.blame(f"'{first}' should answer ARP requests for the VIP {service.vip}, and it alone; {who} does.",
                   *observer.director_steps(service, "vip"))


def test_spread(ipvs: str, plan: Plan, observer: Observer) -> None:
    """requests are spread exactly as the scheduler says"""
    service = _service(plan, ipvs)
    shares = _shares(service)
    round_ = sum(shares.values())
    answers = observer.sample(service.vip, service.port, _ROUNDS * round_)
    pages = [answer.page for answer in answers if answer.status == 200]
    if not pages:
        # A VIP that nobody holds is the business of test_arp; here the table is.
        kind = "rules" if observer.arp_nodes(service.vip) else "vip"
        observer.blame(f"No request to http://{service.vip}:{service.port}/ got an answer.",
                       *observer.director_steps(service, kind))
    for server in shares:
        if server not in pages:
            observer.blame_silent_server(f"'{server}' answered none of {len(answers)} requests to the VIP; "
                                         f"the answers came from {dict(Counter(page[:20] for page in pages))}.",
                                         service, server, asked=len(pages) < len(answers))
    for turn in periods(pages, round_):
        if Counter(turn) != Counter(shares) or list(turn) != pages[:round_]:
            observer.blame(f"{service.scheduler} should give each round of {round_} requests to {shares} in the same "
                           f"order; the answers were {' '.join(pages)}.", *observer.director_steps(service, "rules"))


def test_packet_path(ipvs: str, plan: Plan, observer: Observer) -> None:
    """requests pass the director, replies do not, and servers see the client's address"""
    service = _service(plan, ipvs)
    first = service.directors.nodes[0]
    client = observer.client_node
    client_interface = client.interface_to(service.vip)
    nodes = mac_to_node(plan.nodes)
    count = 2 * sum(_shares(service).values())
    with observer.capture([client.name, first, *service.real_servers], service.vip, service.port) as frames:
        answers = observer.sample(service.vip, service.port, count)
    pages = {answer.page for answer in answers if answer.status == 200}
    if pages != set(service.real_servers):
        missing = sorted(set(service.real_servers) - pages)
        observer.blame_silent_server(f"{' and '.join(map(repr, missing))} did not answer through the VIP, so its "
                                     "packets' path cannot be seen.", service, missing[0],
                                     asked=any(frame.target == service.vip for frame in frames[missing[0]]))
    senders = {nodes.get(frame.source_mac) for frame in frames[client.name] if frame.source == service.vip}
    if senders != set(service.real_servers):
        observer.blame(f"Replies should come straight from the real servers' MAC addresses; they came from {senders}.",
                       *observer.director_steps(service, "rules"))
    through = frames[first]
    arrived = [frame for frame in through if nodes.get(frame.source_mac) == client.name]
    forwarded = {nodes.get(frame.target_mac) for frame in through if nodes.get(frame.source_mac) == first}
    if not arrived or forwarded != set(service.real_servers):
        observer.blame(f"Requests should arrive at '{first}' and leave it to the MAC addresses of the real servers; "
                       f"{len(arrived)} arrived, and they left to {forwarded or 'nobody'}.",
                       *observer.director_steps(service, "rules"))
    if any(frame.source == service.vip for frame in through):
        observer.blame(f"Replies passed '{first}', which in direct routing they never do.",
                       *observer.director_steps(service, "rules"))
    for server in service.real_servers:
        asked = {frame.source for frame in frames[server] if frame.target == service.vip}
        if asked != {client_interface.address}:
            observer.blame(f"'{server}' should see requests from the client's address {client_interface.address} "
                           f"only; it saw {', '.join(map(str, asked)) or 'none'}.",
                           *observer.director_steps(service, "rules"))


def test_dead_server(keepalived: str, plan: Plan, host: Callable[[str], Host], observer: Observer) -> None:
    """a server whose httpd stops leaves the table in time, and comes back with it"""
    service = _service(plan, keepalived)
    first = service.directors.nodes[0]
    server = next(iter(service.real_servers))
    unit = plan.guest.facts["httpd_unit"]
    bound = service.check.removal_seconds
    observer.settled(service)
    if server not in observer.table(first, service):
        observer.blame(f"'{server}' is not in the table of '{first}' to begin with.",
                       (server, "httpd/httpd"), (first, "ipvs/keepalived"))
    try:
        host(server).check_output(f"systemctl stop {unit}")
        if not until(lambda: server not in observer.table(first, service), Deadline(bound)):
            observer.blame(f"'{first}' still sends requests to '{server}' {bound:.0f} s after its httpd stopped.",
                           (first, "ipvs/keepalived"))
        pages = [answer.page for answer in observer.sample(service.vip, service.port, 4)]
        others = set(service.real_servers) - {server}
        if others and not set(pages) <= others:
            observer.blame(f"With '{server}' out of the table its requests should go to {others}; they got {pages}.",
                           (first, "ipvs/keepalived"))
    finally:
        host(server).check_output(f"systemctl start {unit}")
    if not until(lambda: server in observer.table(first, service), Deadline(bound)):
        observer.blame(f"'{first}' does not use '{server}' again {bound:.0f} s after its httpd started.",
                       (first, "ipvs/keepalived"))


def test_clean_stop(keepalived_pair: str, plan: Plan, host: Callable[[str], Host], observer: Observer,
                    record_property: Callable[[str, object], None]) -> None:
    """a MASTER that is stopped hands over within two seconds, and gets the VIP back"""
    service = _service(plan, keepalived_pair)
    first, backup = service.directors.nodes[:2]
    _first_holds(service, observer)
    try:
        with observer.probing(service) as probes:
            host(first).check_output("systemctl stop keepalived")
            _backup_takes_over(service, backup, observer)
            gap = _gap_until_it_serves(probes, observer)
    finally:
        host(first).check_output("systemctl start keepalived")
    record_property("measured", f"{gap:.1f} s without service, {_STOPPED_SECONDS} s allowed")
    if gap > _STOPPED_SECONDS:
        observer.blame(f"After a clean stop of '{first}' nobody served for {gap:.1f} s; {_STOPPED_SECONDS} s are "
                       "allowed.", (backup, "ipvs/keepalived"))
    _first_gets_it_back(service, observer)


def test_crash(keepalived_pair: str, plan: Plan, lab: Lab, observer: Observer,
               record_property: Callable[[str, object], None]) -> None:
    """a MASTER that crashes is replaced in VRRP's time, and gets the VIP back when it returns"""
    service = _service(plan, keepalived_pair)
    first, backup = service.directors.nodes[:2]
    allowed = service.takeover_seconds(backup) + _NOTICED_SECONDS
    _first_holds(service, observer)
    try:
        with observer.probing(service) as probes:
            lab.crash(plan.node(first))
            _backup_takes_over(service, backup, observer)
            gap = _gap_until_it_serves(probes, observer)
    finally:
        lab.start(plan.node(first))
        lab.gates(_Silent()).wait_for_nodes([plan.node(first)])
    record_property("measured", f"{gap:.1f} s without service, {allowed:.1f} s allowed")
    if gap > allowed:
        observer.blame(f"After the crash of '{first}' nobody served for {gap:.1f} s; {allowed:.1f} s are allowed "
                       "(three advertisements, the skew and two seconds).", (backup, "ipvs/keepalived"))
    _first_gets_it_back(service, observer)


def _first_holds(service: Ipvs, observer: Observer) -> None:
    first = service.directors.nodes[0]
    holders = observer.settled(service)
    if holders != [first]:
        observer.blame(f"'{first}' should hold the VIP {service.vip}, and it alone; "
                       f"{' and '.join(map(repr, holders)) or 'nobody'} does.", (first, "ipvs/keepalived"))


def _backup_takes_over(service: Ipvs, backup: str, observer: Observer) -> None:
    deadline = Deadline(service.takeover_seconds(backup) + 10)
    if not until(lambda: backup in observer.holders(service), deadline, interval=0.2):
        observer.blame(f"'{backup}' does not take the VIP {service.vip} over.", (backup, "ipvs/keepalived"))


def _gap_until_it_serves(probes: Callable[[], list[tuple[float, bool]]], observer: Observer) -> float:
    """The time without service, once five requests in a row have succeeded again."""
    until(lambda: all(good for _, good in probes()[-5:]), Deadline(5 * observer.lab.patience))
    return longest_gap(probes())


def _first_gets_it_back(service: Ipvs, observer: Observer) -> None:
    first = service.directors.nodes[0]
    if not until(lambda: observer.holders(service) == [first], Deadline(10 * observer.lab.patience)):
        observer.blame(f"'{first}' is back, but does not get the VIP {service.vip} back.", (first, "ipvs/keepalived"))


class _Silent:
    """A progress that nobody watches."""

    def say(self, text: str) -> None:
        """See labctl.progress."""

    def passed(self, node: str, gate: Gate) -> None:
        """See labctl.progress."""
