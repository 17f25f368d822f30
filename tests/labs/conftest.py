"""What the suite that `labctl test` runs in a lab has besides labctl.observe.fixtures: subjects for each check."""

from collections.abc import Callable, Hashable
from typing import Any

import pytest

from labctl.labs.lab import Lab
from labctl.language.services import Haproxy, Heartbeat, Httpd, Ipvs, Nginx, NginxVhosts, Ntp, Vrrp
from labctl.observe.fixtures import LAB
from labctl.observe.observer import ServiceType, share_network
from labctl.observe.verdict import Measure, Measured
from labctl.plan.plan import Plan

# Each fixture's subjects in a plan: a test that uses the fixture runs once for each subject.
_SUBJECTS: dict[str, Callable[[Plan], list[Any]]] = {
    "node": lambda plan: [node.name for node in plan.nodes],
    "neighboured": lambda plan: [node.name for node in plan.nodes if any(
        other != node and share_network(node, other) for other in plan.nodes)],
    "httpd_server": lambda plan: [
        (name, node) for name, service in _services(plan, Httpd) for node in service.nodes],
    "nginx_server": lambda plan: [(name, node) for name, service in _services(plan, Nginx) for node in service.nodes],
    "ntp_server": lambda plan: [(name, service.server) for name, service in _services(plan, Ntp)],
    "ntp_client": lambda plan: [(name, node) for name, service in _services(plan, Ntp) for node in service.clients],
    # ---- IPVS
    "vip": lambda plan: _first(_services(plan, Ipvs), lambda service: service.vip),
    "rotating": lambda plan: [name for name, service in _services(plan, Ipvs)
                              if service.scheduler in ("rr", "wrr") and not service.persistence],
    "path": lambda plan: _first(
        [(name, service) for name, service in _services(plan, Ipvs)
         if service.scheduler in ("rr", "wrr") and not service.persistence],
        lambda service: (service.vip, service.forward, service.server_port)),
    "tunnel": lambda plan: [name for name, service in _services(plan, Ipvs) if service.forward == "tun"],
    "snat": lambda plan: [name for name, service in _services(plan, Ipvs) if service.snat],
    "checked": lambda plan: [name for name, service in _services(plan, Ipvs) if service.health],
    "page_checked": lambda plan: [
        name for name, service in _services(plan, Ipvs) if service.health and service.health.type == "http"
        and any(isinstance(other, Httpd) and set(service.real_servers) <= set(other.nodes)
                for other in plan.topology.services.values())],
    "script_checked": lambda plan: [
        name for name, service in _services(plan, Ipvs) if service.check and service.directors.ipvsadm],
    "counting": lambda plan: [name for name, service in _services(plan, Ipvs)
                              if service.scheduler in ("lc", "wlc", "sed", "nq") and not service.persistence],
    "source_hashed": lambda plan: [name for name, service in _services(plan, Ipvs)
                                   if service.scheduler == "sh" and not service.persistence],
    "destination_bound": lambda plan: [name for name, service in _services(plan, Ipvs)
                                       if service.scheduler in ("dh", "lblc", "lblcr") and not service.persistence],
    "persistent": lambda plan: [name for name, service in _services(plan, Ipvs) if service.persistence],
    "persistent_lab": lambda plan: _all([name for name, service in _services(plan, Ipvs) if service.persistence]),
    # ---- Floating addresses
    "floating": lambda plan: _first(
        [(name, frontend) for name, service in plan.topology.services.items()
         for frontend in service.frontends(plan.topology.services, plan.guest.keepalived) if frontend.failover],
        lambda frontend: (frontend.holders, frontend.failover)),
    "electing": lambda plan: [
        name for name, service in plan.topology.services.items() if isinstance(service, Ipvs | Vrrp)
        if any(frontend.failover for frontend in service.frontends(plan.topology.services, plan.guest.keepalived))],
    "watched": lambda plan: [name for name, _ in _services(plan, Vrrp)],
    "heartbeat": lambda plan: [name for name, _ in _services(plan, Heartbeat)],
    "watched_by_heartbeat": lambda plan: [name for name, service in _services(plan, Heartbeat) if service.watch],
    "watching": lambda plan: [
        (name, node) for name, service in _services(plan, Heartbeat) if service.watch for node in service.nodes],
    # ---- Proxies
    "proxy": lambda plan: [(name, node) for name, service in _services(plan, Haproxy) for node in service.nodes],
    "vhost_proxy": lambda plan: [
        (name, node) for name, service in _services(plan, NginxVhosts) for node in service.nodes],
    "vhost": lambda plan: [(name, node, host) for name, service in _services(plan, NginxVhosts)
                           for node in service.nodes for host in service.vhosts],
    "shared_vhost": lambda plan: [(name, host) for name, service in _services(plan, NginxVhosts)
                                  for host, servers in service.vhosts.items() if len(servers) > 1],
    "proxied": lambda plan: [
        name for name, service in _services(plan, Ipvs)
        if service.health and len(service.real_servers) > 1 and any(
            set(service.real_servers) <= set(proxies.nodes) for _, proxies in _services(plan, NginxVhosts))],
}


def _first(found: list[tuple[str, Any]], key: Callable[[Any], Hashable]) -> list[str]:
    """The first of the services with the same `key`."""
    seen: dict[Hashable, str] = {}
    for name, item in found:
        seen.setdefault(key(item), name)
    return list(seen.values())


def _all(names: list[str]) -> list[list[str]]:
    """All of them at once, if there are any."""
    return [names] if names else []


def _services(plan: Plan, kind: type[ServiceType]) -> list[tuple[str, ServiceType]]:
    return [(name, service) for name, service in plan.topology.services.items() if isinstance(service, kind)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    plan = metafunc.config.stash[LAB].plan
    for name, subjects in _SUBJECTS.items():
        if name in metafunc.fixturenames:
            found = subjects(plan)
            metafunc.parametrize(name, found, ids=[item if isinstance(item, str) else "/".join(item) for item in found])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A lab that has nothing of a kind has no check of it; that is no skipped check. Crashes come last: a clock that
    was just set right, or a table that was just filled, would keep other checks waiting."""
    items[:] = sorted((item for item in items if "NOTSET" not in item.name),
                      key=lambda item: item.path.stem == "test_failover")


@pytest.fixture(scope="session")
def plan(lab: Lab) -> Plan:
    """What the lab should be."""
    return lab.plan


@pytest.fixture
def measure(record_property: Callable[[str, object], None]) -> Measure:
    """Adds a value and its bound to the check's verdict."""
    return lambda value, unit, bound: record_property("measured", Measured(value=value, unit=unit, bound=bound))
