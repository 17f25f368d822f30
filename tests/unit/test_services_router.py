"""labctl.language.services.router: the ways between networks."""

from ipaddress import IPv4Address

import pytest
from samples import BASE, GUESTS, TUN, changed, placed, step_of, told

from labctl.language import topology
from labctl.language.services import Placement
from labctl.language.services.router import reaches


@pytest.mark.parametrize(("node", "message"), [
    ("gat", "'gat' is not a node of this topology. Did you mean 'gate'?"),
    ("lvs", "'lvs' is on one network only; a router connects at least two."),
])
def test_a_router_is_a_node_on_two_networks(node: str, message: str) -> None:
    assert (13, message) in told(changed("node: gate", f"node: {node}", TUN))


def test_nodes_get_routes_to_the_networks_that_they_are_not_on() -> None:
    far = {"routes": [{"subnet": "20.20.20.0/24", "via": "10.10.10.254"}]}
    lan = {"routes": [{"subnet": "10.10.10.0/24", "via": "20.20.20.254"}]}
    assert placed(TUN, "way") == [
        Placement("gate", "router/forward"),
        Placement("lvs", "router/routes", far),
        Placement("rs1", "router/routes", lan),
        Placement("rs2", "router/routes", lan),
        Placement("client", "router/routes", far),
    ]


def test_a_node_on_all_networks_needs_no_route() -> None:
    assert [each.node for each in placed(f"{BASE}  way: {{ type: router, node: lvs }}\n", "way")] == \
        ["lvs", "rs1", "rs2", "client"]


def test_a_node_beside_no_router_gets_no_route() -> None:
    text = changed("networks:\n", "networks:\n  else: { subnet: 10.9.0.0/24, host: 10.9.0.1 }\n", TUN)
    text = changed("  client:", "  alone: { else: 10.9.0.2 }\n  client:", text)
    site = topology.parse(text, "lab.yaml")
    assert site.services["way"].routes(site, "alone") == {}
    assert site.services["way"].routes(site, "gate") == {}
    assert site.services["way"].routes(site, "rs1") == {"lan": IPv4Address("20.20.20.254")}
    assert {(node, network): reaches(site, site.services, node, network)
            for node in ("rs1", "alone") for network in ("lan", "far", "else")} == {
        ("rs1", "lan"): True, ("rs1", "far"): True, ("rs1", "else"): False,
        ("alone", "lan"): False, ("alone", "far"): False, ("alone", "else"): True}
    assert not reaches(site, {}, "rs1", "lan")


@pytest.mark.parametrize("guest", GUESTS)
def test_routes_are_set_at_each_boot_and_can_be_taken_back(guest: str) -> None:
    step = step_of(TUN, "rs1", "router/routes", "way", guest)
    assert step.units == ["lab-routes-way"]
    lines = step.write_files[0].content.splitlines()
    assert "ExecStart=/sbin/ip route replace 10.10.10.0/24 via 20.20.20.254" in lines
    assert "ExecStop=/sbin/ip route del 10.10.10.0/24 via 20.20.20.254" in lines
    assert "WantedBy=multi-user.target" in lines
    assert step_of(TUN, "gate", "router/forward", "way", guest).write_files[0].content == "net.ipv4.ip_forward = 1\n"
