"""An address that floats between nodes: what happens when its holder crashes, stops, or no longer hears the others."""

import re
from contextlib import nullcontext

from labctl.base.text import these
from labctl.base.wait import Deadline, until
from labctl.language.services import Failover, Frontend, Ipvs, Vrrp
from labctl.language.services.vrrp import router_ids
from labctl.observe.live import CHECKS_RATE, Asking
from labctl.observe.observer import LOOK_SECONDS, Observer
from labctl.observe.promises import slack
from labctl.observe.verdict import Measure
from labctl.observe.web import units_of
from labctl.plan.plan import Plan

_FAREWELL = "prio 0,"
"""What tcpdump prints of the advertisement by which keepalived leaves (RFC 3768, 5.3.4). It is heard or not, whatever a
busy machine makes of the time."""


def _frontend(name: str, plan: Plan) -> tuple[Frontend, Failover]:
    frontend = plan.topology.services[name].frontends(plan.topology.services, plan.guest.keepalived)[0]
    assert frontend.failover
    return frontend, frontend.failover


def _seconds(election: float, failover: Failover, observer: Observer) -> float:
    """How many seconds the service may be away."""
    return slack(observer.lab).seconds(election, failover)


def _steps(node: str, failover: Failover) -> list[tuple[str, str]]:
    return [(node, step) for step in failover.steps]


def test_clean_stop(floating: str, plan: Plan, observer: Observer, measure: Measure) -> None:
    """a holder that is stopped hands over at once"""
    frontend, failover = _frontend(floating, plan)
    allowed = _seconds(failover.stop_seconds, failover, observer)
    holder = _one_holder(frontend, failover, observer)
    other = next(node for node in frontend.holders if node != holder)
    address = plan.node(holder).interface_to(frontend.address).address
    listening = observer.hearing(other, frontend.address, f"ip proto 112 and src host {address}")
    elects = failover.unit == "keepalived"
    with (listening if elects else nullcontext(lambda: _FAREWELL) as heard,
          Asking(observer, frontend, CHECKS_RATE).serving() as away,
          observer.faults.stop_units(holder, failover.unit)):
        taker = _somebody_else_takes_over(frontend, failover, holder, observer)
        gap = away()
        if _FAREWELL not in heard():
            observer.blame(f"'{holder}' was stopped and did not tell '{other}', which then waits as after a crash.",
                           *_steps(holder, failover))
    measure(gap, "s", allowed)
    if gap > allowed:
        observer.blame(f"After a clean stop of '{holder}' nobody served for {gap:.1f} s; {allowed:.1f} s are allowed.",
                       *_steps(taker, failover))
    _ends_up_where_it_should(frontend, failover, taker, observer)


def test_crash(floating: str, plan: Plan, observer: Observer, measure: Measure) -> None:
    """a holder that crashes is replaced in the election's time"""
    frontend, failover = _frontend(floating, plan)
    allowed = _seconds(failover.crash_seconds, failover, observer)
    holder = _one_holder(frontend, failover, observer)
    with Asking(observer, frontend, CHECKS_RATE).serving() as away, observer.faults.crash(holder):
        taker = _somebody_else_takes_over(frontend, failover, holder, observer)
        gap = away()
    measure(gap, "s", allowed)
    if gap > allowed:
        observer.blame(f"After the crash of '{holder}' nobody served for {gap:.1f} s; {allowed:.1f} s are allowed.",
                       *_steps(taker, failover))
    _ends_up_where_it_should(frontend, failover, taker, observer)


def test_partition(electing: str, plan: Plan, observer: Observer) -> None:
    """two holders that could not hear each other are one again when they can"""
    frontend, failover = _frontend(electing, plan)
    holder = _one_holder(frontend, failover, observer)
    first, other = frontend.holders[:2]
    if holder != first:
        # With nopreempt a lower priority may hold it. It would step back as soon as the other no longer hears it.
        with observer.faults.stop(holder, failover.unit):
            _somebody_else_takes_over(frontend, failover, holder, observer)
    steps = [*_steps(first, failover), *_steps(other, failover)]
    rule = f"INPUT {failover.messages} -j DROP"
    iptables = plan.guest.facts["iptables"]
    with observer.faults.command(other, f"{iptables} -I {rule}", f"{iptables} -D {rule}"):
        if not until(lambda: {first, other} <= set(observer.holders(frontend)),
                     Deadline(2 * _seconds(failover.crash_seconds, failover, observer)), LOOK_SECONDS):
            observer.blame(f"'{other}' does not take {frontend.address} although it hears nobody.",
                           *_steps(other, failover))
    if not until(lambda: len(observer.holders(frontend)) == 1,
                 Deadline(2 * _seconds(failover.crash_seconds, failover, observer)), LOOK_SECONDS):
        observer.blame(f"The partition is over, and {frontend.address} is still at "
                       f"{' and '.join(map(repr, observer.holders(frontend)))}.",
                       *steps)
    # Another check looks at other nodes that answer.
    answering = observer.arp_nodes(frontend.address) & set(frontend.holders)
    if answering != set(observer.holders(frontend)):
        observer.blame(f"After the partition ARP requests for {frontend.address} are answered by "
                       f"{' and '.join(sorted(answering)) or 'neither holder'}.",
                       *steps)
    answers = observer.sample(frontend.address, frontend.port, 4, host=frontend.host)
    if [answer.status for answer in answers] != [200] * 4:
        observer.blame(f"After the partition not every request to {frontend.address} is answered.",
                       *steps)


def test_advertisements(electing: str, plan: Plan, observer: Observer) -> None:
    """advertisements have the configured values, and go to the group or, with unicast, to the other nodes"""
    service = plan.topology.services[electing]
    assert isinstance(service, Ipvs | Vrrp)
    frontend, failover = _frontend(electing, plan)
    holder = _one_holder(frontend, failover, observer)
    other = next(node for node in frontend.holders if node != holder)
    # The first of several services with the same VIP creates the instance, which may have several addresses; a message
    # has them after its first eight bytes.
    services = plan.topology.services
    first = next(name for name, other in services.items() if service.vip in other.vips)
    places = (f"ip[{28 + 4 * position}:4] = {int(service.vip)}" for position in range(len(services[first].vips)))
    messages = f"ip proto 112 and ({' or '.join(places)})"
    seconds = 2 * service.vrrp.advert + 2
    heard = {}
    for node in (observer.client_node.name, other):
        interface = plan.node(node).interface_to(frontend.address).name
        heard[node] = observer.says(node, f"timeout {seconds} tcpdump -i {interface} -n -c 1 '{messages}' 2>/dev/null")
    if not heard[other]:
        observer.blame(f"'{other}' hears no advertisement of '{holder}' for {service.vip}.", *_steps(holder, failover))
    should = ", ".join([f"vrid {router_ids(first, services, service.vrrp)[0]}",
                        f"prio {service.vrrp.priority(frontend.holders.index(holder))}",
                        *(["authtype simple"] if service.vrrp.auth else []), f"intvl {service.vrrp.advert}s"])
    # Some versions of tcpdump also print the type for no authentication.
    says = re.search(r"vrid .*?intvl \d+s", heard[other].replace("authtype none, ", ""))
    if not says or says.group() != should:
        observer.blame(f"'{holder}' advertises {service.vip} as '{says.group() if says else heard[other]}', and by the "
                       f"topology it should be '{should}'.", *_steps(holder, failover))
    if bool(heard[observer.client_node.name]) == service.vrrp.unicast:
        verb = "hears" if service.vrrp.unicast else "does not hear"
        observer.blame(f"'{observer.client_node.name}' {verb} the advertisements of '{holder}'.",
                       *_steps(holder, failover))


def test_program_dies(watched: str, plan: Plan, observer: Observer) -> None:
    """a holder whose program dies while its machine lives loses the address"""
    service = observer.service(watched, Vrrp)
    frontend, failover = _frontend(watched, plan)
    holder = _one_holder(frontend, failover, observer)
    units = units_of(holder, service.port, observer)
    with observer.faults.stop_units(holder, units):
        taker = _somebody_else_takes_over(frontend, failover, holder, observer)
        statuses = [answer.status for answer in observer.sample(frontend.address, frontend.port, 4, host=frontend.host)]
        if statuses != [200] * 4:
            observer.blame(f"'{taker}' has the address, and requests get the HTTP statuses {statuses}.",
                           *_steps(taker, failover))
    _ends_up_where_it_should(frontend, failover, taker, observer)


def _one_holder(frontend: Frontend, failover: Failover, observer: Observer) -> str:
    holders = observer.settled(frontend)
    first = frontend.holders[0]
    if len(holders) != 1 or (failover.returns and holders != [first]):
        who = f"'{first}'" if failover.returns else "One node"
        observer.blame(f"{who} should hold {frontend.address}, and it alone; "
                       f"{these(holders, 'does', 'do')}.", *_steps(first, failover))
    return holders[0]


def _somebody_else_takes_over(frontend: Frontend, failover: Failover, holder: str, observer: Observer) -> str:
    others = [node for node in frontend.holders if node != holder]
    deadline = Deadline(2 * _seconds(failover.crash_seconds, failover, observer))

    takers = until(lambda: observer.holders(frontend, others), deadline, LOOK_SECONDS)
    if not takers:
        observer.blame(f"Nobody takes {frontend.address} over from '{holder}'.",
                       *(step for node in others for step in _steps(node, failover)))
    return takers[0]


def _ends_up_where_it_should(frontend: Frontend, failover: Failover, taker: str, observer: Observer) -> None:
    """Once all nodes are back, the first choice gets the address back, or with nopreempt its new holder keeps it."""
    expected = frontend.holders[0] if failover.returns else taker
    if not failover.returns:
        # Long enough for a first choice that wrongly takes it back.
        until(lambda: observer.holders(frontend) != [expected], Deadline(2 * failover.crash_seconds), LOOK_SECONDS)
    if not until(lambda: observer.holds_alone(expected, frontend), Deadline(10 * observer.lab.patience), LOOK_SECONDS):
        observer.blame(f"All nodes are there again, and '{expected}' does not have {frontend.address}.",
                       *_steps(expected, failover))
