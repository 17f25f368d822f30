"""What tells the ten algorithms apart; rr and wrr are in test_ipvs."""

from collections import Counter
from functools import reduce
from ipaddress import IPv4Address
from math import gcd

from labctl.language.services import Ipvs
from labctl.observe.balancing import (
    blame_silence,
    choices,
    director_of,
    director_steps,
    must_be_reachable,
    settled_director,
    until_the_next,
)
from labctl.observe.observer import Observer

_SLACK = 3
"""Requests more than are due, as others may end and be forgotten meanwhile."""


def test_open_connections(counting: str, observer: Observer) -> None:
    """connections that stay open are dealt out by the scheduler's own count"""
    service = observer.service(counting, Ipvs)
    director = settled_director(service, observer)
    table = observer.table(director, service)
    if not observer.sample(service.vip, service.port, 1)[0].status or not table:
        blame_silence(f"No request to http://{service.vip}:{service.port}/ got an answer.", service, observer)
    load = observer.load(director, service)
    step = reduce(gcd, table.values())
    count = 2 * len(table) if service.scheduler == "lc" else sum(table.values()) // step
    with observer.holding(service.vip, service.port, count) as ports:
        held = {connection.client_port: connection.server for connection in observer.connections(director)
                if connection.virtual == service.vip and connection.client_port in ports
                and connection.state == "ESTABLISHED"}
    names = {service.server_address(observer.plan.topology, server): server for server in service.real_servers}
    got = [names[held[port]] for port in ports if port in held]
    expected = choices(service.scheduler, table, count, load)
    # lc and wlc also count past connections, which expire meanwhile: only a full round of theirs is certain.
    exact = service.scheduler in ("sed", "nq")
    if got != expected if exact else Counter(got) != Counter(expected):
        _blame(service, f"{service.scheduler} should give {count} connections that stay open to {' '.join(expected)}; "
                        f"it gave them to {' '.join(got) or 'nobody'}.", observer)


def test_closed_connections(counting: str, observer: Observer) -> None:
    """past connections count for lc and wlc, but not for sed and nq"""
    service = observer.service(counting, Ipvs)
    director = settled_director(service, observer)
    table = observer.table(director, service)
    load = observer.load(director, service)
    # A server with earlier connections waits until the others have as many.
    enough = until_the_next(service.scheduler, table, load) if service.scheduler in ("lc", "wlc") and table else 0
    answers = observer.sample(service.vip, service.port, max(3 * len(service.real_servers), enough + _SLACK))
    servers = [answer.server for answer in answers if answer.status == 200]
    if not servers:
        blame_silence(f"No request to http://{service.vip}:{service.port}/ got an answer.", service, observer)
    if service.scheduler in ("sed", "nq"):
        expected = set(choices(service.scheduler, table, 1, load))
        if set(servers) != expected:
            _blame(service, f"With nothing more open, {service.scheduler} should send every request to {expected}; "
                            f"the answers came from {dict(Counter(servers))}.", observer)
    elif enough and len(set(servers)) < 2:
        _blame(service, f"{service.scheduler} should not send {len(servers)} requests in a row to {servers[0]} alone.",
               observer)


def test_source_hash(source_hashed: str, observer: Observer) -> None:
    """a client address stays with its server, and other addresses get others"""
    service = observer.service(source_hashed, Ipvs)
    with observer.sources(service, 8) as sources:
        servers = {source: [answer.server for answer in
                            observer.sample(service.vip, service.port, 2, source=source)] for source in sources}
    _all_answered(service, servers, observer)
    if any(len(set(got)) > 1 for got in servers.values()):
        _blame(service, f"Each client address should stay with one server; the answers came from {_table(servers)}.",
               observer)
    if len({got[0] for got in servers.values()}) < min(2, len(service.real_servers)):
        _blame(service, f"Eight client addresses should not all get the same server; they got {_table(servers)}.",
               observer)


def test_destination(destination_bound: str, observer: Observer) -> None:
    """a destination stays with its server whoever asks, and other destinations get others"""
    service = observer.service(destination_bound, Ipvs)
    _forget(service, observer)
    vip, *others = service.vips
    with observer.sources(service, 2) as sources:
        def ask(address: IPv4Address) -> list[str]:
            return [answer.server for source in (None, *sources)
                    for answer in observer.sample(address, service.port, 1, source=source)]

        servers = {vip: ask(vip)}
        _all_answered(service, servers, observer)
        # lblc and lblcr give a new destination to the least loaded server, and connections of the past count. As many
        # open ones as its weight make the first VIP's server the busiest, and not overloaded.
        with observer.holding(vip, service.port, service.real_servers.get(servers[vip][0], 1)):
            servers |= {other: ask(other) for other in others}
    _all_answered(service, servers, observer)
    if any(len(set(got)) > 1 for got in servers.values()):
        _blame(service, f"Each VIP should stay with one server; the answers came from {_table(servers)}.", observer)
    if len({got[0] for got in servers.values()}) < min(2, len(service.real_servers), len(service.vips)):
        _blame(service, f"The VIPs should not all be at the same server; they are at {_table(servers)}.", observer)


def test_overload(destination_bound: str, observer: Observer) -> None:
    """dh stays with an overloaded server, lblc moves away from it, lblcr takes a second one beside it"""
    service = observer.service(destination_bound, Ipvs)
    _forget(service, observer)
    vip = service.vip
    home = _who(service, vip, 1, observer)[0]
    if home not in service.real_servers:
        blame_silence(f"No request to http://{vip}:{service.port}/ got an answer.", service, observer)
    # Overloaded: more open connections than its weight, while another has less than half of its own (ip_vs_lblc.c).
    with observer.holding(vip, service.port, service.real_servers[home] + 1):
        during = set(_who(service, vip, 2, observer))
    # Idle again: enough requests for the set's least loaded one to change.
    after = set(_who(service, vip, 8 * sum(service.real_servers.values()), observer))
    moved = during - {home}
    right = {
        "dh": not moved and after == {home},
        "lblc": len(moved) == 1 and home not in during and after == moved,
        "lblcr": len(moved) == 1 and home not in during and after == moved | {home},
    }[service.scheduler]
    if not right:
        then, later = (" and ".join(sorted(servers)) or "nobody" for servers in (during, after))
        _blame(service, f"'{home}' served {vip}; once it was overloaded {then} did, and afterwards {later}. "
                        f"That is not how {service.scheduler} works.", observer)


def _who(service: Ipvs, vip: IPv4Address, count: int, observer: Observer) -> list[str]:
    return [answer.server for answer in observer.sample(vip, service.port, count)]


def _forget(service: Ipvs, observer: Observer) -> None:
    """Bind the service to its scheduler again, so that the scheduler forgets destinations."""
    director = director_of(service, observer)
    lines = observer.says(director, f"ipvsadm -Ln {service.virtual} | grep '^[FT]'").split()
    if len(lines) > 2:
        other = "rr" if lines[2] != "rr" else "wrr"
        for scheduler in (other, lines[2]):
            observer.says(director, f"ipvsadm -E {service.virtual} -s {scheduler}")


def _all_answered(service: Ipvs, servers: dict[IPv4Address, list[str]], observer: Observer) -> None:
    if not all(all(got) and got for got in servers.values()):
        answering = {server for got in servers.values() for server in got}
        silent = next((server for server in service.real_servers if server not in answering), None)
        blame_silence(f"Not every request got an answer: {_table(servers)}.", service, observer, silent)


def _table(servers: dict[IPv4Address, list[str]]) -> str:
    return ", ".join(f"{address}: {' '.join(filter(None, got)) or 'nobody'}" for address, got in servers.items())


def _blame(service: Ipvs, message: str, observer: Observer) -> None:
    for server in service.real_servers:
        must_be_reachable(message, service, server, observer)
    observer.blame(message, *director_steps(service, director_of(service, observer), "rules"))
