"""What the kernel's load balancer should do, and which steps to suspect if it does not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from math import gcd
from typing import NoReturn

from labctl.base.wait import Deadline, until
from labctl.language.services import Frontend, Ipvs, Router, Service
from labctl.observe.observer import Observer
from labctl.observe.web import must_be_well
from labctl.observe.wire import Answer, Load

_OPEN = 256
"""An open connection counts as much as this many past ones (ip_vs_dest_conn_overhead in the kernel's ip_vs.h)."""
_MOST_REQUESTS = 200


def frontend_of(service: Service, observer: Observer) -> Frontend:
    """The service's frontend."""
    return service.frontends(observer.plan.topology.services, observer.plan.guest.keepalived)[0]


def director_of(service: Ipvs, observer: Observer) -> str:
    """The director that holds the VIP; the first director if none or several hold it."""
    holders = observer.settled(frontend_of(service, observer))
    return holders[0] if len(holders) == 1 else service.directors.nodes[0]


def settled_director(service: Ipvs, observer: Observer) -> str:
    """The director that holds the VIP, once it has taken back servers that an earlier check or a user had stopped.

    It returns in time even if a server stays away; the caller will notice.
    """
    director = director_of(service, observer)
    if service.health:
        until(lambda: observer.table(director, service).keys() == service.real_servers.keys(),
              Deadline(removal_seconds(service)))
    return director


def removal_seconds(service: Ipvs) -> float:
    """How many seconds a director may take to notice that a server died or is back.

    Twice as long with ipvsadm, whose script checks one server after the other.
    """
    if service.health is None:
        raise ValueError("nothing checks the servers")
    return service.health.removal_seconds * (1 if service.directors.keepalived else 2)


def rotation(scheduler: str, table: Mapping[str, int]) -> list[str]:
    """One round of rr or wrr over a table in the kernel's order.

    rr ignores weights. wrr goes round the list with a falling level, and takes each server whose weight is at least the
    level (ip_vs_wrr.c); only the ratio of weights matters.
    """
    if scheduler == "rr":
        return list(table)
    step = reduce(gcd, table.values())
    return [server for level in range(max(table.values()), 0, -step)
            for server, weight in table.items() if weight >= level]


def is_rotation(answers: Sequence[str], round_: Sequence[str]) -> bool:
    """Whether answers repeat this round, starting anywhere in it."""
    length = len(round_)
    endless = list(round_) * (len(answers) // length + 2)
    return any(list(answers) == endless[start:start + len(answers)] for start in range(length))


def choices(scheduler: str, table: Mapping[str, int], count: int, load: Mapping[str, Load] | None = None, *,
            stay_open: bool = True) -> list[str]:
    """The server that gets each of `count` successive connections (ip_vs_{lc,wlc,sed,nq}.c).

    `load` is what the director counts before. The connections stay open or, without `stay_open`, each ends before the
    next one begins. Among equal servers the first in the kernel's order is chosen.
    """
    before = load or {}
    active = {server: before.get(server, Load()).active for server in table}
    inactive = {server: before.get(server, Load()).inactive for server in table}
    chosen = []
    for _ in range(count):
        idle = [server for server in table if not active[server]]
        if scheduler == "nq" and idle:
            best = idle[0]
        elif scheduler in ("lc", "wlc"):
            best = min(table, key=lambda server: (_OPEN * active[server] + inactive[server])
                       / (table[server] if scheduler == "wlc" else 1))
        else:
            best = min(table, key=lambda server: (active[server] + 1) / table[server])
        (active if stay_open else inactive)[best] += 1
        chosen.append(best)
    return chosen


def until_the_next(scheduler: str, table: Mapping[str, int], load: Mapping[str, Load]) -> int:
    """After how many short connections lc or wlc must have chosen a second server; 0 if that would take too many."""
    chosen = choices(scheduler, table, _MOST_REQUESTS, load, stay_open=False)
    return next((count for count, server in enumerate(chosen, start=1) if server != chosen[0]), 0)


def director_steps(service: Ipvs, director: str, kind: str) -> list[tuple[str, str]]:
    """The step on a director, with its node, that is for the VIP (`vip`), the table (`rules`) or health checks."""
    return [(director, "ipvs/keepalived" if service.directors.keepalived else f"ipvs/{kind}")]


def all_must_answer(answers: Sequence[Answer], service: Ipvs, observer: Observer, message: str = "") -> None:
    """Fail if a real server answered none of the requests to the VIP.

    `message` says what went wrong as a result; without it, the failure's message is about the missing answers.
    """
    servers = [answer.server for answer in answers if answer.status == 200]
    if not servers:
        nobody = f"No request to http://{service.vip}:{service.port}/ got an answer."
        blame_silence(message or nobody, service, observer)
    for server in service.real_servers:
        if server not in servers:
            not_this = (f"'{server}' answered none of {len(answers)} requests to the VIP; the answers came from "
                        f"{dict(Counter(servers))}.")
            blame_server(message or not_this, service, server, observer, asked=len(servers) < len(answers))


def blame_silence(message: str, service: Ipvs, observer: Observer, server: str | None = None,
                  port: int | None = None) -> NoReturn:
    """Fail because there is no answer at the VIP; `server` is the real server that was asked, if known.

    `port` is the port that was asked, if the service has several.
    """
    director = director_of(service, observer)
    if not observer.arp_nodes(service.vip):
        observer.blame(message, *director_steps(service, director, "vip"))
    blame_server(message, service, server or next(iter(service.real_servers)), observer, asked=True,
                 port=port)


def blame_server(message: str, service: Ipvs, server: str, observer: Observer, *, asked: bool,
                 port: int | None = None) -> NoReturn:
    """Fail because a real server does not answer through the VIP.

    `asked` says whether requests reached it and went unanswered.
    """
    must_be_reachable(message, service, server, observer, port)
    if service.forward == "dr" and asked:
        observer.blame(message, (server, "ipvs/vip-lo"))
    observer.blame(message, *director_steps(service, director_of(service, observer), "rules"))


def must_be_reachable(message: str, service: Ipvs, server: str, observer: Observer, port: int | None = None) -> None:
    """Fail if something visible keeps requests to the VIP from a real server, or its answers from the client."""
    director = director_of(service, observer)
    must_be_well(server, port or service.server_port, observer, frontend_of(service, observer).host, message)
    if server not in observer.table(director, service):
        observer.blame(message, *director_steps(service, director, "rules"))
    if service.mark and f"--set-xmark {service.mark.number:#x}/" not in observer.says(
            director, f"{observer.plan.guest.facts['iptables']} -t mangle -S PREROUTING"):
        observer.blame(message, (director, "ipvs/mark"))
    if service.forward == "nat":
        must_find_back(message, service, server, director, observer)
        return
    answering = observer.arp_nodes(service.vip)
    thieves = [node for node in service.real_servers if node in answering]
    if thieves:
        observer.blame(message, *((node, "ipvs/arp") for node in thieves))
    if service.forward == "tun":
        _must_have_a_tunnel(message, service, server, director, observer)


def forwards(node: str, observer: Observer) -> bool:
    """Whether a node forwards packets."""
    return observer.says(node, "cat /proc/sys/net/ipv4/ip_forward") == "1"


def must_find_back(message: str, service: Ipvs, server: str, director: str, observer: Observer) -> None:
    """Fail if a NAT server's packets for the client do not go to the director, or it does not forward them."""
    client = observer.client_node.interface_to(service.vip).address
    gateway = service.server_gateway(observer.plan.topology, server)
    if f"via {gateway} " not in observer.says(server, f"ip route get {client}"):
        observer.blame(message, (server, "ipvs/gateway"))
    if not forwards(director, observer):
        observer.blame(message, (director, "ipvs/forward"))


def _must_have_a_tunnel(message: str, service: Ipvs, server: str, director: str, observer: Observer) -> None:
    client = observer.client_node.interface_to(service.vip).address
    address = service.server_address(observer.plan.topology, server)
    for start, target in ((director, address), (server, client)):
        if "unreachable" in observer.says(start, f"ip route get {target} 2>&1"):
            observer.blame(message, (start, "router/routes"))
    filtered = "cat /proc/sys/net/ipv4/conf/*/rp_filter | grep -v 0"
    routers = [other.node for other in observer.plan.topology.services.values() if isinstance(other, Router)]
    for router in routers:
        if not forwards(router, observer):
            observer.blame(message, (router, "router/forward"))
    if not observer.says(server, f"ip -o address show dev tunl0 to {service.vip}"):
        observer.blame(message, (server, "ipvs/vip-tunl"))
    for node in (server, *routers):
        if observer.says(node, filtered):
            observer.blame(message, (node, "ipvs/rp-filter"))
