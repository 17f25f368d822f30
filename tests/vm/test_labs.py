"""Every lab: up, each step's undo noticed and named, back after a reboot, then all checks green, down clean.

With --thorough this is so of each step of each lab, each node is rebooted, and all quick checks see each undone step.
Without, each kind of step is undone in the first lab that has it, and those checks look that may notice, or that ask no
balancer and no proxy (the others wait for long where nobody answers); as few nodes are rebooted as have all kinds of
steps; and a way of failing over is tried in the first lab that has it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest
from conftest import LABS, OWN, failures, labs_of, planned
from machines import Labctl

from labctl.cli.checks import NO_CHECKS
from labctl.language.services import Ipvs, Vrrp
from labctl.plan.steps import Step

THROUGH_VIP = ["spread", "clients_stay", "second_client", "long_packets", "open_connections",
               "closed_connections", "source_hash", "destination"]
"""The quick checks that ask a balancer."""

PROXIED = ["vhost", "vhost_dead_server", "proxy_spread"]
"""Those that ask a proxy."""

# The checks that notice each kind of step missing; no other may fail. The first is the one that has to.
GUARDS = {
    "base/hosts": ["names_resolve"],
    "base/packages": ["package_source", "packages"],
    "haproxy/haproxy": ["proxy_spread", "dead_backend"],
    "heartbeat/authkeys": ["members"],
    "heartbeat/heartbeat": ["members"],
    "heartbeat/resources": ["members"],
    "heartbeat/watch": ["watch"],
    "httpd/page": ["own_page", "spread", "closed_connections", *PROXIED],
    "httpd/port": ["own_page", "spread", "clients_stay"],
    "httpd/httpd": ["own_page", *THROUGH_VIP, *PROXIED],
    "ipvs/arp": ["arp", "spread"],
    "ipvs/forward": [*THROUGH_VIP, "own_connections"],
    "ipvs/gateway": [*THROUGH_VIP, "own_connections"],
    "ipvs/healthcheck": ["dead_server", "log", "refused_page"],
    "ipvs/keepalived": ["clean_stop", "arp", "spread"],
    "ipvs/mark": ["clients_stay", "second_client", "destination"],
    "ipvs/rp-filter": ["spread", "long_packets"],
    "ipvs/rules": THROUGH_VIP,
    "ipvs/snat": ["own_connections"],
    "ipvs/vip": ["arp", "spread", "clients_stay", "second_client", "long_packets",
                 "destination"],
    "ipvs/vip-lo": ["spread"],
    "ipvs/vip-tunl": ["spread", "long_packets"],
    "nginx-vhosts/default": ["unknown_host"],
    "nginx-vhosts/vhosts": ["vhost", "spread", "vhost_dead_server"],
    "nginx/nginx": ["vhost", "nginx_page", "unknown_host", "spread", "members",
                    "vhost_dead_server"],
    "nginx/page": ["nginx_page", "members"],
    "nginx/site": ["nginx_page", "members"],
    "ntp/client": ["clock"],
    "ntp/server": ["time_server", "clock"],
    "router/forward": ["spread", "long_packets"],
    "router/routes": ["spread", "long_packets"],
    "vrrp/keepalived": ["clean_stop"],
}
SLOW = ("/crash or /clean_stop or /partition or /program_dies or /silent_web_server or /vhost_dead_server or "
        "/dead_proxy or /advertisements or /dead_server or /log or /refused_page or /packet_path or /templates or "
        "/addresses or /no_firewall or /dead_backend or /overload")

OUTAGES = ["crash", "clean_stop", "partition", "advertisements", "program_dies",
           "silent_web_server"]
"""What takes an address from its holder, and measures for how long nobody serves."""


@dataclass(frozen=True)
class Case:
    """A step on a node of a lab."""

    lab: str
    node: str
    step: Step

    def __str__(self) -> str:
        return f"{self.node}/{self.step.name}"


def cases(thorough: bool) -> list[Case]:
    first: dict[tuple[str, str], Case] = {}
    for lab in labs_of(thorough):
        for node in planned(lab).nodes:
            for step in node.steps:
                first.setdefault((lab if thorough else "any", step.kind), Case(lab, node.name, step))
    return list(first.values())


def rebooted(thorough: bool) -> list[tuple[str, str]]:
    """A lab and a node: all of them, or few that have all kinds of steps together."""
    kinds = {(lab, node.name): {step.kind for step in node.steps}
             for lab in labs_of(thorough) if lab not in OWN for node in planned(lab).nodes}
    if thorough:
        return list(kinds)
    found: list[tuple[str, str]] = []
    unseen = set().union(*kinds.values())
    while unseen:
        found.append(max(kinds, key=lambda each: len(kinds[each] & unseen)))
        unseen -= kinds[found[-1]]
    return sorted(found, key=lambda each: LABS.index(each[0]))


def tried_before(lab: str) -> Iterator[str]:
    """The services of a lab that fail over as one of an earlier lab does."""
    seen: set[object] = set()
    for each in LABS:
        plan = planned(each)
        services = plan.topology.services
        for name, service in services.items():
            for frontend in service.frontends(services, plan.guest.keepalived):
                if not frontend.failover:
                    continue
                way = (type(service), *((service.forward,) if isinstance(service, Ipvs) else ()),
                       *((service.vrrp,) if isinstance(service, Ipvs | Vrrp) else ()), repr(frontend.failover))
                if each == lab and way in seen:
                    yield name
                seen.add(way)
        if each == lab:
            return


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    thorough = metafunc.config.getoption("--thorough")
    if "case" in metafunc.fixturenames:
        found = cases(thorough)
        metafunc.parametrize(("lab", "case"), [(case.lab, case) for case in found], indirect=["lab"], scope="session",
                             ids=[f"{case.lab}/{case}" for case in found])
    elif "rebooted_node" in metafunc.fixturenames:
        metafunc.parametrize(("lab", "rebooted_node"), rebooted(thorough), indirect=["lab"], scope="session",
                             ids=map("/".join, rebooted(thorough)))
    elif "lab" in metafunc.fixturenames:
        metafunc.parametrize("lab", labs_of(thorough), indirect=True)


@pytest.mark.vm
def test_undone_step_is_noticed(lab: str, case: Case, labs: Labctl, shuffled: tuple[str, str],
                                pytestconfig: pytest.Config) -> None:
    guards = GUARDS[case.step.kind]
    thorough = pytestconfig.getoption("--thorough")
    left_out = SLOW if thorough else " or ".join([SLOW, *(f"/{name}" for name in (*THROUGH_VIP, *PROXIED))])
    expression = " or ".join([f"not ({left_out})", *(f"/{guard}" for guard in guards)])
    labs("undo", f"{lab}/{case}")
    try:
        said = labs("test", lab, "-k", expression, *shuffled, "-o", "json", code=1).out
    finally:
        labs("apply", f"{lab}/{case}")
    wrong = [verdict for verdict in json.loads(said)["verdicts"] if verdict["outcome"] != "passed"]
    names = {verdict["id"].rpartition("/")[2] for verdict in wrong}
    assert names <= set(guards), wrong
    assert thorough or guards[0] in names, wrong
    assert [verdict for verdict in wrong if str(case) not in verdict["suspects"]] == []


@pytest.mark.vm
def test_rebooted_node_is_as_it_was(lab: str, rebooted_node: str, labs: Labctl) -> None:
    labs("reboot", f"{lab}/{rebooted_node}")
    assert [f"{node['node']}/{step['name']}" for node in labs.json("status", lab)["nodes"]
            for step in node["steps"] if not step["applied"]] == []


@pytest.mark.vm
def test_everything_is_green(lab: str, labs: Labctl, shuffled: tuple[str, str], tmp_path: Path,
                             pytestconfig: pytest.Config) -> None:
    """The last of a lab's tests: also what they took away, broke or rebooted is as it was."""
    known = [] if pytestconfig.getoption("--thorough") else list(tried_before(lab))
    outages = " or ".join(f"/{outage}" for outage in OUTAGES)
    of_known = "".join(f" and not {service}/{outage}" for outage in OUTAGES for service in known)
    for expression, use in ((f"({outages}){of_known}", "measure"), (f"not ({outages})", None)):
        junit, html = tmp_path / f"{use}.xml", tmp_path / f"{use}.html"
        result = labs("test", lab, "-k", expression, *shuffled, "--junit", str(junit), "--html", str(html), use=use,
                      code=None)
        if use and result.code == NO_CHECKS:
            continue  # Nothing in it takes over from another.
        assert result.code == 0, f"{shuffled}\n{result.out}"
        assert "0 failed" in result.out
        assert failures(junit) == {}
    assert "every machine's name resolves" in unescape(html.read_text())
