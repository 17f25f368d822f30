"""labctl.language.services.ipvs: what is refused, which step lands where, and the times checks rely on."""

import shlex
from typing import Any

import pytest
from samples import (
    BASE,
    GUESTS,
    KEEPALIVED,
    NAT,
    NAT_KEEPALIVED,
    TUN,
    VRRP,
    changed,
    option,
    placed,
    plan_of,
    second_ipvs,
    service_of,
    step_of,
    told,
    values_of,
)

from labctl.language import topology
from labctl.language.services import Placement
from labctl.language.services.ipvs import Check
from labctl.plan import guests
from labctl.plan.steps import render

# The same service, and httpd on another port as well.
TWO_PORTS = changed("  web:", "  more: { type: httpd, nodes: [rs1, rs2], port: 8080 }\n  web:", NAT)
# One that maps ports, so that another one can have the same address.
MAPPED = option("real_port: 80", NAT)
PER_CLIENT = "persistence: { per: client }"
BESIDE_FLOAT = VRRP + changed("[lvs]", "[lb1]", BASE[BASE.index("  web:"):])


def line_of(text: str, key: str) -> int:
    """The line of the first service's key."""
    return text[:text.index(f"    {key}:")].count("\n") + 1


# ---- What is refused ----------------------------------------------------------------------------------

NODES = [
    (changed("ipvsadm: [lvs]", "ipvsadm: [lsv]"), 19, "'lsv' is not a node of this topology. Did you mean 'lvs'?"),
    (changed("[lvs, out]", "[lvs, lvs]", KEEPALIVED), 19, "the node 'lvs' is listed twice."),
    (changed("rs2: 2", "rs9: 2"), 20, "'rs9' is not a node of this topology. Did you mean 'rs2' or 'rs1'?"),
    (changed("rs2: 2", "lvs: 2"), 20, "'lvs' is a director of this service already."),
    (changed("rs2: 2", "out: 2"), 20, "nothing serves port 80 on 'out'; a service such as httpd has to."),
    (changed("rs1: { lan", "rs1: { client: true, lan"), 13,
     "the client 'rs1' is part of the service; checks need one outside of it."),
    (changed("lvs: { lan", "lvs: { client: true, lan"), 13,
     "the client 'lvs' is part of the service; checks need one outside of it."),
    (changed("out: { lan: 10.10.10.14, outer: 20.20.20.14 }", "out: { lan: 10.10.10.14 }", NAT_KEEPALIVED), 19,
     "'out' is not on 'outer', the VIP's segment."),
]

ADDRESSES = [
    (changed("vip: 10.10.10.100", "vip: 10.10.10.13"), 15,
     "10.10.10.13 is the address of 'rs2'; a VIP needs one of its own."),
    (changed("vip: 10.10.10.100", "vip: 10.10.10.1"), 15, "10.10.10.1 is the physical machine's address on 'lan'."),
    (changed("vip: 10.10.10.100", "vip: 10.10.10.255"), 15,
     "10.10.10.255 is the network or broadcast address of 10.10.10.0/24."),
    (changed("vip: 10.10.10.100", "vip: 192.168.0.100"), 15, "192.168.0.100 is in no network of this topology."),
    (changed("  client: {", "  probe: { client: true, far: 20.20.20.50 }\n  client: {", TUN), 17,
     "the client 'probe' is not on 'lan' and could not reach 10.10.10.100."),
    # What the director itself serves at its own address.
    (changed("vip: 20.20.20.100\n    port: 80", "vip: 20.20.20.11\n    port: 22\n    real_port: 80", NAT), 16,
     "port 22 of 20.20.20.11 is for SSH to 'lvs' itself; give the service a VIP of its own."),
    (option("mark: { number: 3, vips: [20.20.20.11], ports: [22] }", NAT), 16,
     "port 22 of 20.20.20.11 is for SSH to 'lvs' itself; give the service a VIP of its own."),
    (changed("vip: 20.20.20.100", "vip: 20.20.20.11", changed("nodes: [rs1, rs2]", "nodes: [rs1, rs2, lvs]", NAT)), 15,
     "'apache' serves port 80 on 'lvs', and 20.20.20.11 is that node's own address; the balancer would take all "
     "that is sent there. Give the service a VIP of its own."),
    # The director's own address is a VIP with NAT and ipvsadm alone.
    (changed("vip: 10.10.10.100", "vip: 10.10.10.11"), 15,
     "10.10.10.11 is the address of 'lvs'; a VIP needs one of its own."),
    (changed("vip: 10.10.10.100", "vip: 10.10.10.11", TUN), 16,
     "10.10.10.11 is the address of 'lvs'; a VIP needs one of its own."),
    (changed("vip: 20.20.20.100", "vip: 20.20.20.11", NAT_KEEPALIVED), 15,
     "20.20.20.11 is the address of 'lvs'; a VIP needs one of its own."),
    (changed("vip: 20.20.20.100", "vip: 20.20.20.14", NAT), 15,
     "20.20.20.14 is the address of 'out'; a VIP needs one of its own."),
    # A mark's addresses are VIPs too.
    (option("mark: { number: 1, vips: [20.20.20.101, 20.20.20.50] }", NAT), 21,
     "20.20.20.50 is the address of 'client'; a VIP needs one of its own."),
    (option("mark: { number: 1, vips: [10.9.0.1] }", NAT), 21, "10.9.0.1 is in no network of this topology."),
    (option("mark: { number: 1, vips: [20.20.20.1] }", NAT), 21,
     "20.20.20.1 is the physical machine's address on 'outer'."),
    (option("mark: { number: 1, vips: [10.10.20.101] }",
            changed("client: { lan: 10.10.10.50 }", "client: { lan: 10.10.10.50, far: 10.10.20.50 }")), 21,
     "10.10.20.101 is not on 'lan', the segment of the VIP 10.10.10.100."),
]

GATEWAYS = [
    (changed("    gateway: 10.10.10.100\n", "", NAT_KEEPALIVED), 19,
     "with several directors the real servers' gateway has to float as well; 'gateway' is missing."),
    (option("gateway: 10.10.10.14", NAT), 21,
     "10.10.10.14 is not an address of the director 'lvs', which the real servers' replies have to pass."),
    (changed("10.10.10.100", "10.10.10.12", NAT_KEEPALIVED), 21,
     "10.10.10.12 is the address of 'rs1'; a VIP needs one of its own."),
    (changed("10.10.10.100", "10.10.10.11", NAT_KEEPALIVED), 21,
     "10.10.10.11 is the address of 'lvs'; a VIP needs one of its own."),
    (changed("10.10.10.100", "10.10.10.1", NAT_KEEPALIVED), 21,
     "10.10.10.1 is the physical machine's address on 'lan'."),
    (changed("10.10.10.100", "10.10.10.255", NAT_KEEPALIVED), 21,
     "10.10.10.255 is the network or broadcast address of 10.10.10.0/24."),
    (second_ipvs(NAT_KEEPALIVED, vip="20.20.20.101", directors="{ keepalived: [out, lvs] }"), 30,
     "10.10.10.100 is the gateway of 'web', which has other directors."),
]

OPTIONS = [
    (changed("port: 80", "port: 81\n    real_port: 80"), 17,
     "port 81 cannot become 80: direct routing changes nothing but the MAC address; 'forward: nat' can."),
    (changed("port: 80", "port: 81\n    real_port: 80", TUN), 18,
     "port 81 cannot become 80: tunnels carry the packet as it is; 'forward: nat' can."),
    (option("real_port: 80", option("mark: { number: 3 }", NAT)), 22,
     "a service on several ports cannot map them to another one."),
    (option("real_port: 80", option(PER_CLIENT, NAT)), 22,
     "a service on several ports cannot map them to another one."),
    (option("gateway: 10.10.10.11"), 21, "'gateway' is for 'forward: nat', where replies pass the director."),
    (option("gateway: 10.10.10.11", TUN), 22, "'gateway' is for 'forward: nat', where replies pass the director."),
    (option("snat: true"), 21, "'snat' is for 'forward: nat', where replies pass the director."),
    (option("snat: true", TUN), 22, "'snat' is for 'forward: nat', where replies pass the director."),
    (option("vrrp: { unicast: true }"), 21, "'vrrp' is for directors with keepalived."),
    (option("persistence: { per: mark }"), 21, "persistence per mark needs a 'mark'."),
    (option("persistence: { per: client }", option("mark: { number: 3 }")), 22,
     "a service with a 'mark' is persistent per mark."),
    (option("persistence: { per: port }", option("mark: { number: 3 }")), 22,
     "a service with a 'mark' is persistent per mark."),
]

NEIGHBOURS = [
    (second_ipvs(BASE, vip="10.10.10.100"), 23, "10.10.10.100 is the VIP of 'web' already, on the same port."),
    (second_ipvs(TWO_PORTS, vip="20.20.20.100", port="8080\n    mark: { number: 3, ports: [80] }"), 24,
     "20.20.20.100 is the VIP of 'web' already, on the same port."),
    (second_ipvs(BASE, vip="10.10.10.100", directors="{ ipvsadm: [out] }"), 23,
     "10.10.10.100 is the VIP of 'web', which has other directors."),
    (second_ipvs(KEEPALIVED, vip="10.10.10.100", directors="{ keepalived: [out, lvs] }"), 23,
     "10.10.10.100 is the VIP of 'web', which has other directors."),
    (second_ipvs(option(PER_CLIENT, TWO_PORTS), vip="20.20.20.100", port="8080"), 25,
     "20.20.20.100 is the VIP of 'web' already, on the same port."),
    (second_ipvs(option("mark: { number: 3 }")), 30, "the mark 3 is that of 'web' already."),
    (BESIDE_FLOAT, 17, "10.10.10.100 is the VIP of 'float' already."),
    (changed("    vip: 10.10.10.100\n", "    vip: 10.10.10.99\n    mark: { number: 1, vips: [10.10.10.100] }\n",
             BESIDE_FLOAT), 17, "10.10.10.100 is the VIP of 'float' already."),
]


@pytest.mark.parametrize(("text", "line", "message"), [*NODES, *ADDRESSES, *GATEWAYS, *OPTIONS, *NEIGHBOURS])
def test_a_mistake_is_told_at_its_line(text: str, line: int, message: str) -> None:
    assert told(text) == [(line, message)]


@pytest.mark.parametrize(("text", "message"), [
    (changed("port: 80", "port: 8080"), "nothing serves port 8080 on '{}'; a service such as httpd has to."),
    (option("real_port: 8080", NAT), "nothing serves port 8080 on '{}'; a service such as httpd has to."),
    (changed("forward: nat", "forward: dr", NAT),
     "'{}' is not on 'outer', the VIP's segment; direct routing only changes the destination MAC address, so all "
     "have to share one segment."),
    (changed("  way: { type: router, node: gate }\n", "", TUN),
     "'{}' and the directors share no network, and no router connects them."),
    (changed("lvs: { lan: 10.10.10.11, outer: 20.20.20.11 }", "lvs: { outer: 20.20.20.11 }", NAT),
     "'{}' is on no network that all directors are on."),
    (changed("client: { outer", "client: { lan: 10.10.10.50, outer", NAT),
     "'{}' is on 'lan' beside the client 'client'; its replies would bypass the director, and the client would "
     "reject them."),
    (changed("10.10.10.100", "20.20.20.99", NAT_KEEPALIVED),
     "'{}' is not on the network of its gateway 20.20.20.99."),
])
def test_what_is_wrong_for_each_real_server_is_told_for_each(text: str, message: str) -> None:
    line = line_of(text, "real_servers")
    assert told(text) == [(line, message.format(server)) for server in ("rs1", "rs2")]


@pytest.mark.parametrize("first", ["{ ipvsadm: [lvs] }", "{ keepalived: [lvs] }"])
def test_a_real_server_has_one_gateway(first: str) -> None:
    text = changed("{ ipvsadm: [lvs] }", first, second_ipvs(NAT, vip="20.20.20.101", directors="{ ipvsadm: [out] }"))
    assert told(text) == [
        (28, f"'web' makes 10.10.10.11 the gateway of '{server}'; it cannot be 10.10.10.14 as well, which this "
             "service's replies have to pass.") for server in ("rs1", "rs2")]


def test_a_gateway_that_is_not_known_is_no_other_gateway() -> None:
    text = changed("{ ipvsadm: [lvs] }", "{ ipvsadm: [lsv] }",
                   second_ipvs(NAT, vip="20.20.20.101", directors="{ ipvsadm: [out] }"))
    assert told(text) == [(19, "'lsv' is not a node of this topology. Did you mean 'lvs'?")]


@pytest.mark.parametrize("text", [
    changed("vip: 20.20.20.100", "vip: 20.20.20.11", NAT),
    option("mark: { number: 3, vips: [20.20.20.11] }", NAT),
    option("real_port: 80"),
    option("gateway: 10.10.10.11", NAT),
    second_ipvs(MAPPED, vip="20.20.20.100", port="8080"),
    second_ipvs(option("mark: { number: 3 }"), mark="{ number: 4 }"),
    changed("forward: dr", "forward: tun"),
    changed("{ ipvsadm: [lvs] }", "{ keepalived: [lvs] }", NAT),
    second_ipvs(KEEPALIVED, directors="{ keepalived: [out, lvs] }"),
], ids=["own address by NAT", "own address of a mark", "the same port", "the director as gateway", "a VIP's two ports",
        "two marks", "tunnels on one segment", "one director by keepalived", "masters of one service each"])
def test_what_only_looks_like_a_mistake_is_none(text: str) -> None:
    assert told(text) == []


@pytest.mark.parametrize(("line", "where"), [
    ("check: { type: http, interval: 0 }", "check.interval"),
    ("check: { type: http, timeout: 61 }", "check.timeout"),
    ("check: { type: http, retry: 21 }", "check.retry"),
    ("check: { type: icmp }", "check.type"),
    ("mark: { number: 0 }", "mark.number"),
    ("mark: { number: 2147483648 }", "mark.number"),
    ("mark: { number: 1, ports: [0] }", "mark.ports.0"),
    (f"mark: {{ number: 1, ports: {list(range(1, 16))} }}", "mark.ports"),
    (f"mark: {{ number: 1, vips: {['10.10.10.100'] * 33} }}", "mark.vips"),
    ("persistence: { per: server }", "persistence.per"),
    ("persistence: { per: port, timeout: 0 }", "persistence.timeout"),
    ("persistence: { per: port, timeout: 86401 }", "persistence.timeout"),
    ("real_port: 65536", "real_port"),
    ("gateway: lvs", "gateway"),
    ("snat: perhaps", "snat"),
])
def test_a_value_out_of_range_is_told_where_it_is(line: str, where: str) -> None:
    (found,) = told(option(line, NAT))
    assert found[0] == 21
    assert found[1].startswith(f"services.web.{where}: ")


# ---- Which step lands where ---------------------------------------------------------------------------

DR_SERVERS = ["rs1 arp", "rs1 vip-lo", "rs2 arp", "rs2 vip-lo"]
NAT_SERVERS = ["rs1 gateway", "rs2 gateway"]
TUN_SERVERS = ["rs1 rp-filter", "rs1 vip-tunl", "rs2 rp-filter", "rs2 vip-tunl", "gate rp-filter"]


@pytest.mark.parametrize(("text", "expected"), [
    (BASE, [*DR_SERVERS, "lvs vip", "lvs rules"]),
    (option("check: { type: http }"), [*DR_SERVERS, "lvs vip", "lvs rules", "lvs healthcheck"]),
    (option("mark: { number: 3 }"), [*DR_SERVERS, "lvs mark", "lvs vip", "lvs rules"]),
    (KEEPALIVED, [*DR_SERVERS, "lvs keepalived", "out keepalived"]),
    (option("check: { type: http }", KEEPALIVED), [*DR_SERVERS, "lvs keepalived", "out keepalived"]),
    (NAT, [*NAT_SERVERS, "lvs forward", "lvs vip", "lvs rules"]),
    (changed("vip: 20.20.20.100", "vip: 20.20.20.11", NAT), [*NAT_SERVERS, "lvs forward", "lvs rules"]),
    (option("snat: true", option("mark: { number: 3 }", NAT)),
     [*NAT_SERVERS, "lvs forward", "lvs snat", "lvs mark", "lvs vip", "lvs rules"]),
    (option("mark: { number: 3 }", option("snat: true", NAT_KEEPALIVED)),
     [*NAT_SERVERS, *(f"{node} {step}" for node in ("lvs", "out")
                      for step in ("forward", "snat", "mark", "keepalived"))]),
    (TUN, [*TUN_SERVERS, "lvs vip", "lvs rules"]),
    (changed("ipvsadm: [lvs]", "keepalived: [lvs]", TUN), [*TUN_SERVERS, "lvs keepalived"]),
    (changed("forward: dr", "forward: tun"),
     ["rs1 arp", "rs1 rp-filter", "rs1 vip-tunl", "rs2 arp", "rs2 rp-filter", "rs2 vip-tunl", "lvs vip", "lvs rules"]),
])
def test_steps_in_order(text: str, expected: list[str]) -> None:
    """ARP has to be quiet before the VIP is on lo, packets marked and the VIP held before there are rules for them."""
    assert [f"{each.node} {each.step.removeprefix('ipvs/')}" for each in placed(text)] == expected


@pytest.mark.parametrize(("text", "node", "expected"), [
    (second_ipvs(NAT, vip="20.20.20.101"), "rs1", ["page", "httpd", "gateway"]),
    (second_ipvs(NAT, vip="20.20.20.101"), "lvs", ["forward", "vip.web", "rules.web", "vip.shop", "rules.shop"]),
    (second_ipvs(MAPPED, vip="20.20.20.100", port="8080"), "lvs", ["forward", "vip", "rules.web", "rules.shop"]),
    (second_ipvs(TUN), "rs1", ["page", "httpd", "routes", "rp-filter", "vip-tunl.web", "vip-tunl.shop"]),
    (second_ipvs(TUN), "gate", ["forward", "rp-filter"]),
    (second_ipvs(option("snat: true", NAT_KEEPALIVED), vip="20.20.20.101"), "out",
     ["forward", "snat", "keepalived.web", "keepalived.shop"]),
])
def test_what_two_services_need_is_done_once(text: str, node: str, expected: list[str]) -> None:
    assert [step.name for step in plan_of(text).node(node).steps if step.service] == expected


# ---- What steps are told ------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "gateway"), [
    (NAT, "10.10.10.11"),
    (NAT_KEEPALIVED, "10.10.10.100"),
    (changed("ipvsadm: [lvs]", "keepalived: [out]", NAT), "10.10.10.14"),
    (option("gateway: 10.10.10.11", NAT), "10.10.10.11"),
])
def test_replies_of_nat_pass_the_director(text: str, gateway: str) -> None:
    assert [each.values for each in placed(text) if each.step == "ipvs/gateway"] == [{"gateway": gateway}] * 2


@pytest.mark.parametrize("text", [BASE, TUN])
def test_replies_of_others_pass_no_director(text: str) -> None:
    assert service_of(text).server_gateway(topology.parse(text, "lab.yaml"), "rs1") is None


@pytest.mark.parametrize(("text", "expected"), [
    (BASE, ["10.10.10.12", "10.10.10.13"]),
    (NAT, ["10.10.10.12", "10.10.10.13"]),
    (TUN, ["20.20.20.12", "20.20.20.13"]),
    (changed("rs1: { far", "rs1: { lan: 10.10.10.12, far", TUN), ["10.10.10.12", "20.20.20.13"]),
    (changed("rs1: { far", "rs1: { lan: 10.10.10.12, far", changed("rs2: { far", "rs2: { lan: 10.10.10.13, far",
     changed("forward: tun", "forward: dr", TUN))), ["10.10.10.12", "10.10.10.13"]),
])
def test_the_table_has_the_servers_where_directors_reach_them(text: str, expected: list[str]) -> None:
    servers = values_of(text, "lvs", "ipvs/rules")["servers"]
    assert [(each["name"], each["address"], each["weight"]) for each in servers] == \
        [("rs1", expected[0], 1), ("rs2", expected[1], 2)]


def test_the_interface_is_the_one_on_the_vips_segment() -> None:
    text = changed("lvs: { lan: 10.10.10.11, far: 10.10.20.11 }", "lvs: { far: 10.10.20.11, lan: 10.10.10.11 }")
    assert values_of(text, "lvs", "ipvs/vip") == {"vips": ["10.10.10.100"], "interface": "eth1"}


def test_of_several_vips_the_director_is_given_those_that_are_not_its_own() -> None:
    text = option("mark: { number: 3, vips: [20.20.20.101, 20.20.20.11, 20.20.20.100] }", NAT)
    assert values_of(text, "lvs", "ipvs/vip")["vips"] == ["20.20.20.100", "20.20.20.101"]


def test_a_mark_is_for_all_vips_and_ports() -> None:
    text = option("mark: { number: 3, vips: [20.20.20.101], ports: [8080, 80] }", NAT)
    assert values_of(text, "lvs", "ipvs/mark") == \
        {"vips": ["20.20.20.100", "20.20.20.101"], "ports": [80, 8080], "mark": 3}


def test_snat_is_for_the_real_servers_networks_towards_the_clients() -> None:
    text = option("snat: true", NAT_KEEPALIVED)
    assert [values_of(text, node, "ipvs/snat") for node in ("lvs", "out")] == [
        {"subnets": ["10.10.10.0/24"], "interface": "eth1", "address": "20.20.20.11"},
        {"subnets": ["10.10.10.0/24"], "interface": "eth1", "address": "20.20.20.14"}]


@pytest.mark.parametrize("kind", ["rules", "keepalived"])
@pytest.mark.parametrize(("lines", "virtual", "virtual_server", "real_port", "check_port", "seconds"), [
    ([], "-t 20.20.20.100:80", "20.20.20.100 80", 80, 80, None),
    (["real_port: 8080"], "-t 20.20.20.100:80", "20.20.20.100 80", 8080, 8080, None),
    (["persistence: { per: port, timeout: 9 }"], "-t 20.20.20.100:80", "20.20.20.100 80", 80, 80, 9),
    (["persistence: { per: port }", "real_port: 8080"], "-t 20.20.20.100:80", "20.20.20.100 80", 8080, 8080, 300),
    (["persistence: { per: client }"], "-t 20.20.20.100:0", "20.20.20.100 0", 0, 80, 300),
    (["mark: { number: 3 }"], "-f 3", "fwmark 3", 0, 80, None),
    (["mark: { number: 3 }", "persistence: { per: mark }"], "-f 3", "fwmark 3", 0, 80, 300),
])
def test_the_virtual_service_and_the_servers_port(
        kind: str, lines: list[str], virtual: str, virtual_server: str, real_port: int, check_port: int,
        seconds: int | None) -> None:
    """Port 0 is every port; a check needs one all the same."""
    text = TWO_PORTS if kind == "rules" else changed("ipvsadm", "keepalived", TWO_PORTS)
    values = values_of("".join([text, *(f"    {line}\n" for line in lines)]), "lvs", f"ipvs/{kind}")
    assert (values["virtual"], values["virtual_server"]) == (virtual, virtual_server)
    assert (values["real_port"], values["check_port"], values["persistence"]) == (real_port, check_port, seconds)


@pytest.mark.parametrize(("text", "flag", "kind"), [(BASE, "-g", "DR"), (NAT, "-m", "NAT"), (TUN, "-i", "TUN")])
def test_how_packets_are_forwarded(text: str, flag: str, kind: str) -> None:
    values = values_of(text, "lvs", "ipvs/rules")
    assert (values["flag"], values["kind"]) == (flag, kind)


@pytest.mark.parametrize(("text", "kind", "check"), [
    (BASE, "ipvs/rules", None),
    (KEEPALIVED, "ipvs/keepalived", {"type": "tcp", "interval": 2, "timeout": 3, "retry": 3}),
    (option("check: { type: http, retry: 0 }"), "ipvs/healthcheck",
     {"type": "http", "interval": 2, "timeout": 3, "retry": 0}),
])
def test_keepalived_checks_in_any_case_and_a_script_if_asked_to(
        text: str, kind: str, check: dict[str, Any] | None) -> None:
    assert values_of(text, "lvs", kind)["check"] == check
    assert service_of(text).health == (check and Check(**check))


def test_a_balancer_serves_no_port_of_its_own_address() -> None:
    assert service_of(BASE).ports_on("lvs") == set()


# ---- What steps do ------------------------------------------------------------------------------------


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("scheduler", ["rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "lblc", "lblcr"])
def test_every_scheduler_is_named_to_ipvsadm_and_to_keepalived(scheduler: str, guest: str) -> None:
    text = changed("scheduler: rr", f"scheduler: {scheduler}")
    commands = step_of(text, "lvs", "ipvs/rules", guest=guest).runcmd
    assert f"ipvsadm -A -t 10.10.10.100:80 -s {scheduler}" in commands
    text = changed("ipvsadm", "keepalived", text)
    assert f"    lb_algo {scheduler}\n" in step_of(text, "lvs", "ipvs/keepalived", guest=guest).write_files[1].content


@pytest.mark.parametrize("guest", GUESTS)
def test_ipvsadm_is_told_all(guest: str) -> None:
    text = option("real_port: 8080", option("persistence: { per: port, timeout: 9 }", TWO_PORTS))
    assert step_of(text, "lvs", "ipvs/rules", guest=guest).runcmd[:3] == [
        "ipvsadm -D -t 20.20.20.100:80 2>/dev/null || true",
        "ipvsadm -A -t 20.20.20.100:80 -s rr -p 9",
        "ipvsadm -a -t 20.20.20.100:80 -r 10.10.10.12:8080 -m -w 1\n"
        "ipvsadm -a -t 20.20.20.100:80 -r 10.10.10.13:8080 -m -w 2\n"]


@pytest.mark.parametrize(("guest", "retry"), [("centos-7", "nb_get_retry"), ("debian-12", "retry")])
def test_keepalived_is_told_all(guest: str, retry: str) -> None:
    text = option("mark: { number: 3 }", option("persistence: { per: mark, timeout: 9 }", NAT_KEEPALIVED))
    text = option("check: { type: http, interval: 5, timeout: 2, retry: 1 }", text)
    placement = next(each for each in placed(text) if each.step == "ipvs/keepalived")
    step = render(Placement("lvs", placement.step, {**placement.values, "host": "www.example.org"}), "keepalived",
                  "web", guests.load(guest), secret="key")
    lines = [line.strip() for line in step.write_files[1].content.splitlines()]
    table = lines[lines.index("virtual_server fwmark 3 {"):]
    assert table[1:7] == ["delay_loop 5", "lb_algo rr", "lb_kind NAT", "protocol TCP", "persistence_timeout 9",
                          "virtualhost www.example.org"]
    server = table[table.index("real_server 10.10.10.13 0 {"):]
    assert server == ["real_server 10.10.10.13 0 {", "weight 2", "HTTP_GET {", "url {", "path /", "status_code 200",
                      "}", "connect_port 80", "connect_timeout 2", f"{retry} 1", "delay_before_retry 1", "}", "}", "}"]
    assert [file.permissions for file in step.write_files] == ["0600", "0600"]


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("text", [
    KEEPALIVED, NAT_KEEPALIVED, option("check: { type: http }", NAT_KEEPALIVED),
    option("vrrp: { unicast: true, nopreempt: true }", NAT_KEEPALIVED), option("mark: { number: 3 }", KEEPALIVED),
])
def test_keepalived_gets_as_many_brackets_closed_as_opened(text: str, guest: str) -> None:
    depth = 0
    for line in step_of(text, "lvs", "ipvs/keepalived", guest=guest).write_files[1].content.splitlines():
        depth -= line.strip() == "}"
        assert line == "" or (len(line) - len(line.lstrip())) == 4 * depth, line
        depth += line.endswith("{")
    assert depth == 0


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize(("text", "vips", "kind", "device"), [
    (BASE, ["10.10.10.100"], "ipvs/vip-lo", "lo"),
    (TUN, ["10.10.10.100"], "ipvs/vip-tunl", "tunl0"),
    (option("mark: { number: 3, vips: [10.10.10.101] }", TUN), ["10.10.10.100", "10.10.10.101"], "ipvs/vip-tunl",
     "tunl0"),
])
def test_a_real_server_takes_packets_for_each_vip(
        text: str, vips: list[str], kind: str, device: str, guest: str) -> None:
    step = step_of(text, "rs2", kind, guest=guest)
    lines = step.write_files[0].content.splitlines()
    assert [line for line in lines if " addr " in line] == [
        line for vip in vips for line in (f"ExecStart=/sbin/ip addr replace {vip}/32 dev {device}",
                                          f"ExecStop=/sbin/ip addr del {vip}/32 dev {device}")]
    assert step.units == ["lvs-vip-web"]
    assert step.write_files[0].path == "/etc/systemd/system/lvs-vip-web.service"


@pytest.mark.parametrize("guest", GUESTS)
def test_what_iptables_adds_it_takes_back(guest: str) -> None:
    text = option("snat: true", option("mark: { number: 3, vips: [20.20.20.101], ports: [8080] }", NAT))
    iptables = guests.load(guest).facts["iptables"]
    for kind, rules in (
        ("snat", ["POSTROUTING -s 10.10.10.0/24 -o eth1 -j SNAT --to-source 20.20.20.11"]),
        ("mark", [f"PREROUTING -d {vip} -p tcp -m multiport --dports 80,8080 -j MARK --set-mark 3"
                  for vip in ("20.20.20.100", "20.20.20.101")]),
    ):
        step = step_of(text, "lvs", f"ipvs/{kind}", guest=guest)
        table = "nat" if kind == "snat" else "mangle"
        lines = [line for line in step.write_files[0].content.splitlines() if iptables in line]
        assert lines == [f"Exec{when}={iptables} -t {table} {flag} {rule}"
                         for rule in rules for when, flag in (("Start", "-A"), ("Stop", "-D"))]
        assert step.units == [f"lvs-{kind}-web"]


def script(text: str, guest: str, **values: object) -> str:
    placement = next(each for each in placed(text) if each.step == "ipvs/healthcheck")
    step = render(Placement("lvs", placement.step, {**placement.values, **values}), "healthcheck", "web",
                  guests.load(guest), secret="key")
    assert [file.permissions for file in step.write_files] == ["0755", "0644"]
    assert step.units == ["lvs-check-web"]
    return step.write_files[0].content


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize(("line", "host", "asks"), [
    ("check: { type: tcp, timeout: 2 }", None, 'timeout 2 bash -c "</dev/tcp/$1/80"'),
    ("check: { type: http, timeout: 2 }", None, 'curl -sf -o /dev/null --max-time 2 "http://$1:80/"'),
    ("check: { type: http, timeout: 2 }", "www.example.org",
     'curl -sf -o /dev/null --max-time 2 -H Host:www.example.org "http://$1:80/"'),
])
def test_a_script_asks_each_server_as_often_as_it_should(guest: str, line: str, host: str | None, asks: str) -> None:
    text = changed(" }\n", ", interval: 7, retry: 4 }\n", f"    {line}\n")
    lines = [each.strip() for each in script(NAT + text, guest, host=host).splitlines()]
    assert {'virtual=(-t 20.20.20.100:80)', "servers=(10.10.10.12 10.10.10.13)", "weights=(1 2)", asks, "sleep 7",
            "for try in $(seq 0 4); do", '[ "$try" = 0 ] || sleep 1',
            'ipvsadm -e "${virtual[@]}" -r "$1:80" -m -w "$2" ||'} <= set(lines)


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("line", ["check: { type: tcp }", "check: { type: http }"])
def test_a_script_closes_what_it_opens(guest: str, line: str) -> None:
    text = script(option(line, option("mark: { number: 3 }", NAT)), guest)
    assert text.startswith("#!/bin/bash\n")
    words = shlex.split(text.replace(";", " ; "), comments=True)
    for opening, closing in (("if", "fi"), ("do", "done"), ("{", "}")):
        assert words.count(opening) == words.count(closing) > 0


@pytest.mark.parametrize(("settings", "seconds"), [
    ({}, 2 + 3 + 3 * (1 + 3)),
    ({"interval": 6, "timeout": 1, "retry": 0}, 6 + 1),
    ({"interval": 1, "timeout": 1, "retry": 2}, 1 + 1 + 2 * (1 + 1)),
])
@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_a_dead_server_is_removed_within_interval_timeout_and_retries(
    kind: str, settings: dict[str, int], seconds: int
) -> None:
    assert Check(type=kind, **settings).removal_seconds == seconds
