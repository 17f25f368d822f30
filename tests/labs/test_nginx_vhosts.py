"""nginx as a proxy: which host reaches which servers, and what survives."""



from labctl.base.wait import Deadline, until
from labctl.language.services import Ipvs, NginxVhosts
from labctl.language.services.nginx_vhosts import FAIL_SECONDS, PORT
from labctl.observe.balancing import director_steps, frontend_of, removal_seconds, settled_director
from labctl.observe.observer import Observer
from labctl.observe.web import ask, must_be_well, port_of, units_of
from labctl.observe.wire import told

_STRANGER = "www.nobody.example"
_MISDIRECTED = 421
_REQUESTS = 10


def test_vhost(vhost: tuple[str, str, str], observer: Observer) -> None:
    """the host's requests reach all of its own servers and no other, through the proxy"""
    name, proxy, host = vhost
    _all_serve(observer.service(name, NginxVhosts), proxy, host, observer)


def test_unknown_host(vhost_proxy: tuple[str, str], observer: Observer) -> None:
    """an unknown host is refused"""
    name, proxy = vhost_proxy
    answers = ask(proxy, PORT, observer, host=_STRANGER)
    if [answer.status for answer in answers] == [_MISDIRECTED]:
        return
    message = (f"'{proxy}' answers a request for '{_STRANGER}' with {told(answers)}, not with HTTP status "
               f"{_MISDIRECTED}.")
    if not answers or not answers[0].status:
        must_be_well(proxy, PORT, observer, next(iter(observer.service(name, NginxVhosts).vhosts)), message)
    observer.blame(message, (proxy, "nginx-vhosts/default"))


def test_vhost_dead_server(shared_vhost: tuple[str, str], observer: Observer) -> None:
    """no request fails through any proxy while one of the host's servers is dead"""
    name, site = shared_vhost
    service = observer.service(name, NginxVhosts)
    dead, *others = service.vhosts[site]
    units = units_of(dead, port_of(dead, observer), observer)
    for proxy in service.nodes:
        _all_serve(service, proxy, site, observer)
    with observer.faults.stop_units(dead, units):
        for proxy in service.nodes:
            answers = ask(proxy, PORT, observer, _REQUESTS, site)
            if {(answer.status, *answer.names) for answer in answers} != {(200, proxy, other) for other in others}:
                observer.blame(f"With '{dead}' dead, requests for '{site}' at '{proxy}' should be answered by "
                               f"{others}; they got {told(answers)}.", (proxy, "nginx-vhosts/vhosts"))
    for proxy in service.nodes:
        if not until(lambda: dead in {answer.names[-1] for answer in ask(proxy, PORT, observer, _REQUESTS, site)},  # noqa: B023
                     Deadline(2 * FAIL_SECONDS * observer.lab.patience)):
            observer.blame(f"'{proxy}' does not use '{dead}' again.", (proxy, "nginx-vhosts/vhosts"))


def test_dead_proxy(proxied: str, observer: Observer) -> None:
    """a proxy whose nginx stops leaves the table in time; from then on no request fails"""
    service = observer.service(proxied, Ipvs)
    frontend = frontend_of(service, observer)
    bound = removal_seconds(service)
    director = settled_director(service, observer)
    dead, *others = service.real_servers
    with observer.faults.stop_units(dead, "nginx"):
        gone = until(lambda: dead not in observer.table(director, service), Deadline(bound))
        answers = observer.sample(service.vip, service.port, _REQUESTS, host=frontend.host)
        if not gone or {(answer.status, answer.server) for answer in answers} != {(200, other) for other in others}:
            observer.blame(f"{bound:.0f} s after nginx stopped on '{dead}' all requests should be answered through "
                           f"{others}; they got {told(answers)}.", *director_steps(service, director, "healthcheck"))
    if not until(lambda: dead in observer.table(director, service),
                 Deadline(bound * observer.lab.patience)):
        observer.blame(f"'{director}' does not use '{dead}' again.", *director_steps(service, director, "healthcheck"))


def _all_serve(service: NginxVhosts, proxy: str, host: str, observer: Observer) -> None:
    """Fail unless a proxy sends the host's requests to all of the host's servers, and to no other."""
    servers = service.vhosts[host]
    answers = ask(proxy, PORT, observer, 2 * len(servers), host)
    got = {(answer.status, *answer.names) for answer in answers}
    if got == {(200, proxy, server) for server in servers}:
        return
    message = (f"Requests for '{host}' at '{proxy}' should be answered by {' and '.join(map(repr, servers))}, with "
               f"pages that name the proxy and the server; they got {told(answers)}.")
    for server in servers:
        if (200, proxy, server) not in got:
            must_be_well(server, port_of(server, observer), observer, message=message)
    must_be_well(proxy, PORT, observer, host, message)
    observer.blame(message, (proxy, "nginx-vhosts/vhosts"))
