"""HAProxy: balancing on layer 7."""

from collections import Counter
from collections.abc import Callable

from observe import Observer
from testinfra.host import Host

from labctl.plan import Plan
from labctl.services import Haproxy
from labctl.services.haproxy import CHECK_FAILURES, CHECK_SECONDS
from labctl.wait import Deadline, until

_ROUNDS = 4


def test_proxy_spread(proxy: tuple[str, str], observer: Observer) -> None:
    """the proxy gives each server its share"""
    name, node = proxy
    service = observer.service(name, Haproxy)
    asker = observer.neighbour(node)
    expected = {server: _ROUNDS * weight for server, weight in service.servers.items()}
    count = sum(expected.values())
    answers = observer.sample(observer.own_address(asker, node), service.port, count, start=asker)
    got = Counter(answer.server for answer in answers if answer.status == 200)
    # Whoever watches the node's port meanwhile takes a turn as well.
    if any(abs(got[server] - expected.get(server, 0)) > 1 for server in {*got, *expected}):
        missing = [server for server in service.servers if server not in got]
        observer.blame(f"'{node}' should spread {count} requests by the weights {service.servers}; "
                       f"the answers came from {dict(got)}.", (node, "haproxy/haproxy"),
                       *((server, kind) for server in missing for kind in ("httpd/httpd", "httpd/page")))


def test_dead_backend(proxy: tuple[str, str], plan: Plan, host: Callable[[str], Host], observer: Observer) -> None:
    """no request fails while a server behind the proxy is dead"""
    name, node = proxy
    service = observer.service(name, Haproxy)
    asker = observer.neighbour(node)
    address = observer.own_address(asker, node)
    dead, *others = service.servers
    unit = plan.guest.facts["httpd_unit"]

    def servers() -> list[str]:
        return [answer.server for answer in observer.sample(address, service.port, 2 * len(service.servers),
                                                            start=asker)]

    try:
        host(dead).check_output(f"systemctl stop {unit}")
        got = servers()
        if not set(got) <= set(others):
            observer.blame(f"With '{dead}' dead every request should be answered by {others}; the answers came from "
                           f"{got}.", (node, "haproxy/haproxy"))
    finally:
        host(dead).check_output(f"systemctl start {unit}")
    if not until(lambda: dead in servers(), Deadline(2 * CHECK_SECONDS * CHECK_FAILURES * observer.lab.patience)):
        observer.blame(f"'{node}' does not use '{dead}' again.", (node, "haproxy/haproxy"))
