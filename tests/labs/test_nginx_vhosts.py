"""nginx as a proxy: which host reaches which servers, and what survives."""

from collections.abc import Callable
from typing import NoReturn

from balancing import director_of, director_steps, frontend_of
from observe import Answer, Observer
from testinfra.host import Host

from labctl.services import Ipvs, NginxVhosts
from labctl.services.nginx_vhosts import FAIL_SECONDS, PORT
from labctl.wait import Deadline, until

_STRANGER = "www.nobody.example"
_REQUESTS = 10


def test_vhost(vhost: tuple[str, str, str], observer: Observer) -> None:
    """the host's requests reach all of its own servers and no other, through the proxy"""
    name, proxy, host = vhost
    servers = observer.service(name, NginxVhosts).vhosts[host]
    answers = _ask(observer, proxy, host, 2 * len(servers))
    statuses = {answer.status for answer in answers}
    if not answers or statuses == {0}:
        _blame_silent_proxy(f"'{proxy}' does not answer.", proxy, observer)
    got = {tuple(answer.names) for answer in answers if answer.status == 200}
    if got == {(proxy, server) for server in servers} and statuses == {200}:
        return
    message = (f"Requests for '{host}' at '{proxy}' should be answered by {' and '.join(map(repr, servers))}, with "
               f"pages that name the proxy and the server; {len(answers)} requests got {sorted(got)} and the HTTP "
               f"statuses {sorted(statuses)}.")
    for server in servers:
        if (proxy, server) not in got:
            _blame_dead_server(message, proxy, server, observer)
    observer.blame(message, (proxy, "nginx-vhosts/vhosts"))


def test_unknown_host(vhost_proxy: tuple[str, str], observer: Observer) -> None:
    """a host that nobody serves is refused"""
    _, proxy = vhost_proxy
    answers = _ask(observer, proxy, _STRANGER, 1)
    status = answers[0].status if answers else 0
    if not status:
        _blame_silent_proxy(f"'{proxy}' does not answer.", proxy, observer)
    if status != 421:
        observer.blame(f"'{proxy}' answers a request for '{_STRANGER}' with HTTP status {status}, not with 421.",
                       (proxy, "nginx-vhosts/default"))


def test_vhost_dead_server(shared_vhost: tuple[str, str], host: Callable[[str], Host], observer: Observer) -> None:
    """through no proxy does a request fail while one of the host's servers is dead"""
    name, site = shared_vhost
    service = observer.service(name, NginxVhosts)
    dead, *others = service.vhosts[site]
    unit = next(unit for step in observer.serving(dead, PORT) for unit in step.units)
    try:
        host(dead).check_output(f"systemctl stop {unit}")
        for proxy in service.nodes:
            answers = _ask(observer, proxy, site, _REQUESTS)
            if {(answer.status, *answer.names) for answer in answers} != {(200, proxy, other) for other in others}:
                observer.blame(f"With '{dead}' dead, requests for '{site}' at '{proxy}' should be answered by "
                               f"{others}; they got {answers}.", (proxy, "nginx-vhosts/vhosts"))
    finally:
        host(dead).check_output(f"systemctl start {unit}")
    for proxy in service.nodes:
        if not until(lambda: dead in {answer.names[-1] for answer in _ask(observer, proxy, site, _REQUESTS)},  # noqa: B023
                     Deadline(2 * FAIL_SECONDS * observer.lab.patience)):
            observer.blame(f"'{proxy}' does not use '{dead}' again.", (proxy, "nginx-vhosts/vhosts"))


def test_dead_proxy(proxied: str, host: Callable[[str], Host], observer: Observer) -> None:
    """a proxy whose nginx stops leaves the table in time; from then on no request fails"""
    service = observer.service(proxied, Ipvs)
    frontend = frontend_of(service, observer)
    assert service.health
    bound = service.health.removal_seconds
    director = director_of(service, observer)
    dead, *others = service.real_servers
    try:
        host(dead).check_output("systemctl stop nginx")
        gone = until(lambda: dead not in observer.table(director, service), Deadline(bound))
        answers = observer.sample(service.vip, service.port, _REQUESTS, host=frontend.host)
        if not gone or {(answer.status, answer.server) for answer in answers} != {(200, other) for other in others}:
            observer.blame(f"{bound:.0f} s after nginx stopped on '{dead}' all requests should be answered through "
                           f"{others}; they got {answers}.", *director_steps(service, director, "healthcheck"))
    finally:
        host(dead).check_output("systemctl start nginx")
    if not until(lambda: dead in observer.table(director, service),
                 Deadline(bound * observer.lab.patience)):
        observer.blame(f"'{director}' does not use '{dead}' again.", *director_steps(service, director, "healthcheck"))


def _ask(observer: Observer, proxy: str, host: str, count: int) -> list[Answer]:
    asker = observer.neighbour(proxy)
    return observer.sample(observer.own_address(asker, proxy), PORT, count, host=host, start=asker)


def _blame_silent_proxy(message: str, proxy: str, observer: Observer) -> NoReturn:
    if observer.says(proxy, "systemctl is-active nginx") != "active":
        observer.blame(message, (proxy, "nginx/nginx"))
    observer.blame(message, (proxy, "nginx-vhosts/vhosts"), (proxy, "nginx-vhosts/default"))


def _blame_dead_server(message: str, proxy: str, server: str, observer: Observer) -> None:
    """Blame a server's own steps where it does not answer the proxy's machine as it should."""
    address = observer.own_address(proxy, server)
    port = next(port for other in observer.plan.topology.services.values() for port in sorted(other.ports_on(server)))
    answers = observer.sample(address, port, 1, start=proxy)
    if not answers or answers[0].server != server:
        observer.blame(message, *((server, step.kind) for step in observer.serving(server, port)))
