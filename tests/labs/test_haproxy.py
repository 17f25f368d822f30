"""HAProxy: balancing on layer 7."""

from collections import Counter

from labctl.base.wait import Deadline, until
from labctl.language.services import Haproxy
from labctl.language.services.haproxy import CHECK_FAILURES, CHECK_SECONDS
from labctl.observe.observer import Observer
from labctl.observe.web import ask, must_be_well, units_of

_ROUNDS = 4


def test_proxy_spread(proxy: tuple[str, str], observer: Observer) -> None:
    """the proxy gives each server its share"""
    name, node = proxy
    service = observer.service(name, Haproxy)
    expected = {server: _ROUNDS * weight for server, weight in service.servers.items()}
    count = sum(expected.values())
    answers = ask(node, service.port, observer, count)
    got = Counter(answer.server for answer in answers if answer.status == 200)
    # Health checks of the node's port take turns as well.
    if any(abs(got[server] - expected.get(server, 0)) > 1 for server in {*got, *expected}):
        message = (f"'{node}' should spread {count} requests by the weights {service.servers}; "
                   f"the answers came from {dict(got)}.")
        for server in set(service.servers) - set(got):
            must_be_well(server, service.server_port, observer, message=message)
        observer.blame(message, (node, "haproxy/haproxy"))


def test_dead_backend(proxy: tuple[str, str], observer: Observer) -> None:
    """no request fails while a server behind the proxy is dead"""
    name, node = proxy
    service = observer.service(name, Haproxy)
    dead, *others = service.servers
    units = units_of(dead, service.server_port, observer)

    def servers() -> list[str]:
        return [answer.server for answer in ask(node, service.port, observer, 2 * len(service.servers))]

    with observer.faults.stop_units(dead, units):
        got = servers()
        if not set(got) <= set(others):
            observer.blame(f"With '{dead}' dead every request should be answered by {others}; the answers came from "
                           f"{got}.", (node, "haproxy/haproxy"))
    if not until(lambda: dead in servers(), Deadline(2 * CHECK_SECONDS * CHECK_FAILURES * observer.lab.patience)):
        observer.blame(f"'{node}' does not use '{dead}' again.", (node, "haproxy/haproxy"))
