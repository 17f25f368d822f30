"""heartbeat: who takes part, and what becomes of the VIP when a web server is silent and its machine is not."""



from labctl.base.text import these
from labctl.base.wait import Deadline, until
from labctl.language.services import Heartbeat
from labctl.language.services.heartbeat import DEADTIME, MOVE_SECONDS
from labctl.observe.balancing import frontend_of
from labctl.observe.live import CHECKS_RATE, Asking
from labctl.observe.observer import LOOK_SECONDS, Observer
from labctl.observe.verdict import Measure
from labctl.observe.web import must_be_well, units_of

_FILES = ("heartbeat/authkeys", "heartbeat/resources")
"""The steps without which heartbeat does not start."""


def test_members(heartbeat: str, observer: Observer) -> None:
    """both nodes hear each other, and one holds the VIP"""
    service = observer.service(heartbeat, Heartbeat)
    _both_serve(service, observer)
    silent, stopped = _silent(service, observer)
    # A stopped heartbeat does not start by itself.
    if silent and not stopped and until(lambda: not _silent(service, observer)[0],
                                        Deadline(DEADTIME * observer.lab.patience)):
        silent = []
    if silent:
        observer.blame(f"{these(silent, 'takes', 'take')} no part: no heartbeat is heard.",
                       *(suspect for node in silent for suspect in _suspects(node, observer)))
    first = service.nodes[0]
    if service.auto_failback:
        _holds(first, service, observer)
    holders = observer.settled(frontend_of(service, observer))
    if len(holders) != 1:
        observer.blame(f"One node should hold {service.vip}, and it alone; "
                       f"{these(holders, 'does', 'do')}.", *_suspects(first, observer))


def test_watch(watching: tuple[str, str], observer: Observer) -> None:
    """the node keeps asking its own web server"""
    name, node = watching
    service = observer.service(name, Heartbeat)
    address = observer.plan.node(node).interface_to(service.vip).address
    seconds = 2 * service.interval + observer.lab.patience
    heard = observer.says(node, f"timeout {seconds:.0f} tcpdump -i lo -n -c 1 dst host {address} and "
                                f"tcp dst port {service.port} 2>/dev/null")
    if not heard:
        observer.blame(f"'{node}' did not ask its own web server for {seconds:.0f} s.", (node, "heartbeat/watch"))


def test_silent_web_server(watched_by_heartbeat: str, observer: Observer, measure: Measure) -> None:
    """a holder whose web server stops hands the VIP over"""
    service = observer.service(watched_by_heartbeat, Heartbeat)
    frontend = frontend_of(service, observer)
    node = (observer.settled(frontend) or service.nodes)[0]
    peer = next(each for each in service.nodes if each != node)
    allowed = service.watch_seconds + MOVE_SECONDS * observer.lab.patience
    _both_serve(service, observer)
    units = units_of(node, service.port, observer)
    with Asking(observer, frontend, CHECKS_RATE).serving() as away, observer.faults.stop_units(node, units):
        if not until(lambda: observer.holds_alone(peer, frontend), Deadline(allowed + 10), LOOK_SECONDS):
            observer.blame(f"The web server on '{node}' is silent, and '{peer}' does not get {service.vip}.",
                           (node, "heartbeat/watch"))
        gap = away()
    measure(gap, "s", allowed)
    if gap > allowed:
        observer.blame(f"After the web server on '{node}' stopped nobody served for {gap:.1f} s; {allowed:.1f} s are "
                       "allowed.", (node, "heartbeat/watch"))
    _holds(service.nodes[0] if service.auto_failback else peer, service, observer)


def _holds(node: str, service: Heartbeat, observer: Observer) -> None:
    """Fail if a node does not get the VIP in time."""
    if not until(lambda: observer.holds_alone(node, frontend_of(service, observer)),
                 Deadline(2 * service.interval + MOVE_SECONDS + 10 * observer.lab.patience), LOOK_SECONDS):
        observer.blame(f"'{node}' does not get {service.vip}, though its web server answers.",
                       (node, "heartbeat/watch"), *_suspects(node, observer))


def _both_serve(service: Heartbeat, observer: Observer) -> None:
    """Fail if a node's own web server is silent, since the watch then moves the VIP for a good reason."""
    for node in service.nodes:
        must_be_well(node, service.port, observer, frontend_of(service, observer).host)


def _silent(service: Heartbeat, observer: Observer) -> tuple[list[str], bool]:
    """The nodes that do not run heartbeat or are not heard by the other one, and whether it is stopped on one."""
    pairs = list(zip(service.nodes, reversed(service.nodes), strict=True))
    said = {node: observer.says(node, "systemctl show -p ActiveState heartbeat | cut -d = -f 2; "
                                 f"cl_status nodestatus {peer} 2>&1").split()
            for node, peer in pairs}
    silent = [node for node, peer in pairs
              if said[node][0] != "active" or (said[peer][0] == "active" and said[peer][1:] != ["active"])]
    return silent, any(unit in ("inactive", "failed") for unit, *_ in said.values())


def _suspects(node: str, observer: Observer) -> list[tuple[str, str]]:
    """The steps whose files on the node are missing or changed; heartbeat's own step if none are."""
    changed = [(node, step.kind) for step in observer.plan.node(node).steps if step.kind in _FILES
               if any(observer.says(node, f"cat {file.path}") != file.content.strip() for file in step.write_files)]
    return changed or [(node, "heartbeat/heartbeat")]
