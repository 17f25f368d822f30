"""labctl.services: which step lands where, with what, and the times that checks rely on."""

from ipaddress import IPv4Address

import pytest
from samples import BASE, KEEPALIVED, changed, second_ipvs

from labctl import topology
from labctl.resources import STEPS
from labctl.services import Frontend, Ipvs, Placement
from labctl.services.ipvs import Check


def placed(text: str, service: str) -> list[Placement]:
    parsed = topology.parse(text, "lab.yaml")
    index = list(parsed.services).index(service)
    return list(parsed.services[service].placements(parsed, service, index))


def ipvs(text: str, name: str = "web") -> Ipvs:
    service = topology.parse(text, "lab.yaml").services[name]
    assert isinstance(service, Ipvs)
    return service


@pytest.mark.parametrize(("text", "service", "expected"), [
    (BASE, "apache", {"rs1": ["httpd/page", "httpd/httpd"], "rs2": ["httpd/page", "httpd/httpd"]}),
    (BASE, "web", {"rs1": ["ipvs/arp", "ipvs/vip-lo"], "rs2": ["ipvs/arp", "ipvs/vip-lo"],
                   "lvs": ["ipvs/vip", "ipvs/rules"]}),
    (KEEPALIVED, "web", {"rs1": ["ipvs/arp", "ipvs/vip-lo"], "rs2": ["ipvs/arp", "ipvs/vip-lo"],
                         "lvs": ["ipvs/keepalived"], "out": ["ipvs/keepalived"]}),
])
def test_steps_by_node_in_order(text: str, service: str, expected: dict[str, list[str]]) -> None:
    """ARP has to be quiet before the VIP is on lo, and the VIP held before there are rules for it."""
    found: dict[str, list[str]] = {}
    for placement in placed(text, service):
        found.setdefault(placement.node, []).append(placement.step)
    assert found == expected


@pytest.mark.parametrize("text", [BASE, KEEPALIVED])
def test_every_step_has_its_file(text: str) -> None:
    for service in ("apache", "web"):
        for placement in placed(text, service):
            assert list(STEPS.glob(f"{placement.step}*.yaml")), placement.step


def test_the_balancers_table_is_in_the_values() -> None:
    values = {p.node: p.values for p in placed(BASE, "web") if p.step == "ipvs/rules"}["lvs"]
    assert values["servers"] == [{"name": "rs1", "address": "10.10.10.12", "weight": 1},
                                 {"name": "rs2", "address": "10.10.10.13", "weight": 2}]
    assert (values["vip"], values["port"], values["interface"]) == ("10.10.10.100", 80, "eth0")


def test_the_interface_is_the_one_on_the_vips_segment() -> None:
    text = changed(
        "lvs: { lan: 10.10.10.11, far: 10.10.20.11 }", "lvs: { far: 10.10.20.11, lan: 10.10.10.11 }"
    )
    assert {p.values["interface"] for p in placed(text, "web") if p.node == "lvs"} == {"eth1"}


def test_the_first_keepalived_director_is_master_with_the_highest_priority() -> None:
    text = changed("keepalived: [lvs, out]", "keepalived: [out, lvs, third]", KEEPALIVED)
    text = text.replace("  client: {", "  third: { lan: 10.10.10.51 }\n  client: {")
    directors = [p for p in placed(text, "web") if p.step == "ipvs/keepalived"]
    assert [(p.node, p.values["state"], p.values["priority"]) for p in directors] == \
        [("out", "MASTER", 150), ("lvs", "BACKUP", 100), ("third", "BACKUP", 50)]


def test_each_service_has_a_virtual_router_of_its_own() -> None:
    text = second_ipvs(KEEPALIVED)
    routers = {
        service: {p.values["virtual_router_id"] for p in placed(text, service) if "keepalived" in p.step}
        for service in ("web", "shop")
    }
    assert all(len(ids) == 1 for ids in routers.values())
    assert not routers["web"] & routers["shop"]
    assert all(1 <= router <= 255 for ids in routers.values() for router in ids)


def test_clients_use_the_vip_and_the_first_director_has_it() -> None:
    assert ipvs(KEEPALIVED).frontends() == (Frontend(IPv4Address("10.10.10.100"), 80, ("lvs", "out")),)
    assert list(topology.parse(BASE, "lab.yaml").services["apache"].frontends()) == []


def test_httpd_answers_on_port_80_of_its_nodes() -> None:
    apache = topology.parse(BASE, "lab.yaml").services["apache"]
    assert (apache.ports_on("rs1"), apache.ports_on("lvs")) == ({80}, set())
    assert ipvs(BASE).ports_on("lvs") == set()


def test_a_backup_takes_over_after_three_intervals_and_its_skew() -> None:
    """RFC 3768: Master_Down_Interval = 3 x Advertisement_Interval + (256 - Priority) / 256."""
    assert ipvs(KEEPALIVED).takeover_seconds("out") == 3 * 1 + (256 - 100) / 256
    assert ipvs(KEEPALIVED).skew_seconds("out") == (256 - 100) / 256
    assert ipvs(KEEPALIVED).skew_seconds("lvs") < ipvs(KEEPALIVED).skew_seconds("out")


@pytest.mark.parametrize(("settings", "seconds"), [
    ({}, 2 + 3 + 3 * (1 + 3)),
    ({"interval": 6, "timeout": 1, "retry": 0}, 6 + 1),
    ({"interval": 1, "timeout": 1, "retry": 2}, 1 + 1 + 2 * (1 + 1)),
])
def test_a_dead_server_is_removed_within_interval_timeout_and_retries(
    settings: dict[str, int], seconds: int
) -> None:
    assert Check(type="tcp", **settings).removal_seconds == seconds
