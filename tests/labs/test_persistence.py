"""Persistent connections: who stays where, on which ports, and for how long."""

import time
from ipaddress import IPv4Address
from typing import NoReturn

from labctl.language.services import Ipvs
from labctl.observe.balancing import blame_silence, director_of, director_steps
from labctl.observe.observer import Observer
from labctl.observe.wire import Connection

_LONGEST_WAIT = 30
"""Seconds; templates that live longer are only looked at once."""
_SLACK = 6
_PROLONGED = 60
"""Seconds; a template whose time is over while there is still a connection by it starts again with these
(ip_vs_conn_expire in the kernel's ip_vs_conn.c)."""
_FORGOTTEN = 12
"""Seconds; within them the director has forgotten a connection that was reset: after 10 s, and some for timers.
Templates that live no longer do not end in time, and are only looked at once as well."""
_RESET = ("import socket, struct; s = socket.socket(); s.bind(('{source}', 0)); "
          "s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); "
          "s.connect(('{address}', {port})); s.close()")
"""A connection that ends with a reset; one that ends properly is remembered for two minutes."""


def test_clients_stay(persistent: str, observer: Observer) -> None:
    """a client stays with its server on all ports that belong together, and the next client gets the next one"""
    service = observer.service(persistent, Ipvs)
    ports = _ports(service, observer)
    with observer.sources(service, len(service.real_servers)) as sources:
        by_port = {(source, port): [answer.server for answer in observer.sample(service.vip, port, 2, source=source)]
                   for source in sources for port in ports}
    servers = {source: [server for port in ports for server in by_port[source, port]] for source in sources}
    told = ", ".join(f"{source}: {' '.join(filter(None, got)) or 'nobody'}" for source, got in servers.items())
    for (source, port), got in by_port.items():
        if not all(got) or not got:
            blame_silence(f"Not every request to {service.vip} on port {ports} got an answer: {told}.", service,
                          observer, _server_of(source, service, observer), port if len(ports) > 1 else None)
    if any(len(set(got)) > 1 for got in servers.values()):
        _blame(service, f"Each client should stay with one server on port {ports}; they got {told}.", observer)
    if service.scheduler == "rr" and len({got[0] for got in servers.values()}) < len(service.real_servers):
        _blame(service, f"Each new client should get the next server; they got {told}.", observer)


def test_second_client(persistent: str, observer: Observer) -> None:
    """every client machine keeps its server"""
    service = observer.service(persistent, Ipvs)
    for client in observer.plan.clients():
        got = [answer.server for answer in observer.sample(service.vip, service.port, 3, start=client.name)]
        told = f"'{client.name}' should get one server three times; it got {' '.join(filter(None, got)) or 'none'}."
        if not all(got) or not got:
            address = client.interface_to(service.vip).address
            blame_silence(told, service, observer, _server_of(address, service, observer))
        if len(set(got)) > 1:
            _blame(service, told, observer)


def test_templates(persistent_lab: list[str], observer: Observer) -> None:
    """a template remembers the client, and expires when the timeout is over"""
    services = {name: observer.service(name, Ipvs) for name in persistent_lab}
    first = next(iter(services.values()))
    director = director_of(first, observer)
    with observer.sources(first, 1) as sources:
        source = sources[0]
        for service in services.values():
            code = _RESET.format(source=source, address=service.vip, port=service.port)
            observer.client.run("$(command -v python3 || command -v python) -c %s", code)
        started = time.monotonic()
        waiting = dict(services)
        while waiting:
            elapsed = time.monotonic() - started
            templates = [entry for entry in observer.connections(director)
                         if entry.client == source and entry.client_port == 0]
            for name, service in list(waiting.items()):
                assert service.persistence
                timeout = service.persistence.timeout
                prolonged = timeout <= _FORGOTTEN and elapsed >= timeout - _SLACK
                here = [entry for entry in templates if _is_template_of(entry, service)]
                if not here and elapsed < timeout - _SLACK:
                    _blame(service, f"{elapsed:.0f} s after a request to {service.vip} the director has no template "
                                    f"for {source}, which should live for {timeout} s.", observer)
                if here and (here[0].expires > (_PROLONGED if prolonged else timeout) or elapsed > timeout + _SLACK):
                    _blame(service, f"{elapsed:.0f} s after its only request the template for {source} at "
                                    f"{service.vip} lives for {here[0].expires} s more; it should live for {timeout} s "
                                    "in all.", observer)
                if not here or not _FORGOTTEN < timeout <= _LONGEST_WAIT:
                    del waiting[name]
            time.sleep(1)


def _server_of(client: IPv4Address, service: Ipvs, observer: Observer) -> str | None:
    """The server to which the director sends a client, if it remembers one."""
    servers = {service.server_address(observer.plan.topology, server): server for server in service.real_servers}
    return next((servers.get(entry.server) for entry in observer.connections(director_of(service, observer))
                 if entry.client == client and entry.client_port == 0 and _is_template_of(entry, service)), None)


def _is_template_of(entry: Connection, service: Ipvs) -> bool:
    assert service.persistence
    if service.mark:
        return entry.virtual == IPv4Address(service.mark.number)
    port = 0 if service.persistence.per == "client" else service.port
    return (entry.virtual, entry.virtual_port) == (service.vip, port)


def _ports(service: Ipvs, observer: Observer) -> list[int]:
    """The ports on which a client has to find the same server."""
    if service.persistence and service.persistence.per == "client":
        served = [{port for other in observer.plan.topology.services.values() for port in other.ports_on(server)}
                  for server in service.real_servers]
        return sorted(set.intersection(*served))
    return service.ports


def _blame(service: Ipvs, message: str, observer: Observer) -> NoReturn:
    director = director_of(service, observer)
    observer.blame(message, (director, "ipvs/mark"), *director_steps(service, director, "rules"))
