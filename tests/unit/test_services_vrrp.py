"""labctl.language.services.vrrp: addresses that float, alone and with ipvs."""

from ipaddress import IPv4Address
from typing import Any

import pytest
from samples import (
    BASE,
    GUESTS,
    HAPROXY,
    KEEPALIVED,
    NAT,
    NAT_KEEPALIVED,
    TIMING,
    VRRP,
    changed,
    option,
    placed,
    second_ipvs,
    service_of,
    step_of,
    told,
    values_of,
)

from labctl.language import topology
from labctl.language.services import Failover, Placement
from labctl.language.services.vrrp import Options, failover, router_ids
from labctl.plan import guests
from labctl.plan.steps import render

# An ipvs service beside the proxies.
WEB = changed("[lvs]", "[lb1]", BASE[BASE.index("  web:"):])


@pytest.mark.parametrize(("text", "expected"), [
    (changed("10.10.10.100, nodes: [lb1, lb2]", "10.10.10.100, nodes: [lb1, lb3]", VRRP), [
        (14, "'lb3' is not a node of this topology. Did you mean 'lb2' or 'lb1'?"),
        (14, "nothing serves port 80 on 'lb3'; a service such as haproxy has to.")]),
    (changed("10.10.10.100, nodes: [lb1, lb2]", "10.10.10.100, nodes: [lb1, lb1]", VRRP),
     [(14, "the node 'lb1' is listed twice.")]),
    (changed("10.10.10.100", "10.10.10.11", VRRP),
     [(14, "10.10.10.11 is the address of 'lb1'; a VIP needs one of its own.")]),
    (changed("10.10.10.100", "10.9.0.1", VRRP), [(14, "10.9.0.1 is in no network of this topology.")]),
    (changed("10.10.10.100", "10.10.10.0", VRRP),
     [(14, "10.10.10.0 is the network or broadcast address of 10.10.10.0/24.")]),
    (changed("10.10.10.100", "10.10.10.1", VRRP), [(14, "10.10.10.1 is the physical machine's address on 'lan'.")]),
    (changed("10.10.10.100", "10.10.20.100", VRRP), [
        (14, "'lb1' is not on 'far', the VIP's segment."),
        (14, "'lb2' is not on 'far', the VIP's segment."),
        (14, "the client 'client' is not on 'far' and could not reach 10.10.20.100.")]),
    (changed("lb1: { lan: 10.10.10.11 }", "lb1: { lan: 10.10.10.11, client: true }", VRRP),
     [(14, "the client 'lb1' is part of the service; checks need one outside of it.")]),
    (changed("nodes: [lb1, lb2], servers", "nodes: [lb1], servers", VRRP),
     [(14, "nothing serves port 80 on 'lb2'; a service such as haproxy has to.")]),
    (VRRP + "  more: { type: vrrp, vip: 10.10.10.100, nodes: [lb2, lb1] }\n",
     [(15, "10.10.10.100 is the VIP of 'float' already.")]),
    (NAT_KEEPALIVED.replace("[rs1, rs2]", "[rs1, rs2, third]").replace(
        "  out:", "  third: { lan: 10.10.10.15, outer: 20.20.20.15 }\n  out:").replace(
        "httpd, nodes: [rs1", "nginx, nodes: [lvs, rs1") +
     "  float: { type: vrrp, vip: 10.10.10.100, nodes: [third, lvs] }\n",
     [(23, "10.10.10.100 is the gateway of 'web' already."),
      (23, "the client 'client' is not on 'lan' and could not reach 10.10.10.100.")]),
    (HAPROXY + WEB + VRRP[len(HAPROXY):], [(22, "10.10.10.100 is the VIP of 'web' already.")]),
    (HAPROXY + changed("vip: 10.10.10.100", "vip: 10.10.10.99\n    mark: { number: 1, vips: [10.10.10.100] }", WEB)
     + VRRP[len(HAPROXY):], [(23, "10.10.10.100 is the VIP of 'web' already.")]),
])
def test_a_mistake_is_told_at_its_line(text: str, expected: list[tuple[int, str]]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize("nodes", ["[lb1]", "[lb1, lb2, rs1, rs2]"])
def test_an_address_floats_between_two_or_three_nodes(nodes: str) -> None:
    found = told(changed("10.10.10.100, nodes: [lb1, lb2]", f"10.10.10.100, nodes: {nodes}", VRRP))
    assert [(line, message.split(":")[0]) for line, message in found] == [(14, "services.float.nodes")]


# ---- The election -------------------------------------------------------------------------------------

COURSE = 'vrrp: { router_id: 66, priorities: [80, 30], advert: 1, auth: "1111" }'
"""As the course's own keepalived.conf has it."""


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize(("node", "state", "priority"), [("lvs", "MASTER", 80), ("out", "BACKUP", 30)])
def test_the_courses_own_values_are_what_keepalived_is_told(guest: str, node: str, state: str, priority: int) -> None:
    content = step_of(option(COURSE, KEEPALIVED), node, "ipvs/keepalived", guest=guest).write_files[1].content
    assert content.startswith(
        f"vrrp_instance web {{\n    state {state}\n    interface eth0\n    virtual_router_id 66\n"
        f"    priority {priority}\n    advert_int 1\n    authentication {{\n        auth_type PASS\n"
        "        auth_pass 1111\n    }\n    virtual_ipaddress {\n")


@pytest.mark.parametrize("guest", GUESTS)
def test_both_instances_of_a_group_and_a_service_of_its_own_have_the_values(guest: str) -> None:
    content = step_of(option(COURSE, NAT_KEEPALIVED), "lvs", "ipvs/keepalived", guest=guest).write_files[1].content
    assert [content.count(word) for word in ("priority 80", "auth_pass 1111", "virtual_router_id 66",
                                             "virtual_router_id 152")] == [2, 2, 1, 1]
    text = changed("nodes: [lb1, lb2] }\n", f"nodes: [lb1, lb2], {COURSE} }}\n", VRRP)
    content = step_of(text, "lb2", "vrrp/keepalived", "float", guest).write_files[1].content
    assert "virtual_router_id 66\n    priority 30\n" in content
    assert "auth_pass 1111\n" in content


def test_without_a_password_there_is_no_authentication() -> None:
    assert "auth" not in step_of(KEEPALIVED, "lvs", "ipvs/keepalived").write_files[1].content


@pytest.mark.parametrize(("options", "message"), [
    ("router_id: 0", "services.web.vrrp.router_id: input should be greater than or equal to 1, not 0."),
    ("router_id: 256", "services.web.vrrp.router_id: input should be less than or equal to 255, not 256."),
    ("priorities: [255, 100]", "services.web.vrrp.priorities.0: input should be less than or equal to 254, not 255."),
    ("priorities: [80, 0]", "services.web.vrrp.priorities.1: input should be greater than or equal to 1, not 0."),
    ("priorities: 80", "services.web.vrrp.priorities: has to be a list, not 80."),
    ("priorities: []", "services.web.vrrp.priorities: is empty."),
    ("priorities: [80]", "give each node a priority: there are 2 nodes, and 1 priorities."),
    ("priorities: [80, 30, 10]", "give each node a priority: there are 2 nodes, and 3 priorities."),
    ("priorities: [30, 80]", "the priorities have to fall, since the first node is the first choice."),
    ("priorities: [80, 80]", "the priorities have to fall, since the first node is the first choice."),
    ("advert: 0", "services.web.vrrp.advert: input should be greater than or equal to 1, not 0."),
    ("advert: 11", "services.web.vrrp.advert: input should be less than or equal to 10, not 11."),
    ("auth: 1111", "services.web.vrrp.auth: has to be text, so 1111 needs quotes around it."),
    *((f"auth: '{word}'", f"services.web.vrrp.auth: '{word}' is not a valid VRRP password: letters, digits, '.', '_' "
                              "and '-', at most 8 characters.")
      for word in ("", "123456789", "a b", "a#b", "$a", "}", "ü")),
])
def test_values_that_no_keepalived_could_use_are_refused(options: str, message: str) -> None:
    assert told(option(f"vrrp: {{ {options} }}", KEEPALIVED)) == [(21, message)]


@pytest.mark.parametrize("text", [
    second_ipvs(option("vrrp: { router_id: 66 }", KEEPALIVED), vrrp="{ router_id: 66 }"),
    # One that was counted, from 51 on by the place in the file, and one that was chosen.
    option("vrrp: { router_id: 52 }", second_ipvs(KEEPALIVED)),
    VRRP.replace("lb2] }\n", "lb2], vrrp: { router_id: 66 } }\n") +
    "  more: { type: vrrp, vip: 10.10.10.101, nodes: [lb2, lb1], vrrp: { router_id: 66 } }\n",
], ids=["both chosen", "one chosen", "another type"])
def test_a_virtual_router_is_one_of_a_kind_on_its_segment(text: str) -> None:
    ((_, message),) = told(text)
    assert message.startswith("'")
    assert "' uses the virtual router id " in message
    assert message.endswith(" on 'lan' already; give one of them another 'router_id'.")


def test_a_virtual_router_on_another_segment_may_have_the_same_number() -> None:
    assert told(option("vrrp: { router_id: 152 }", NAT_KEEPALIVED)) == []
    assert told(second_ipvs(option(COURSE, NAT_KEEPALIVED), port="8080", vip="20.20.20.100")
                .replace("port: 8080", "port: 8080\n    real_port: 80")) == []



def test_the_first_node_is_master_with_the_highest_priority() -> None:
    text = changed("{ keepalived: [lvs, out] }", "{ keepalived: [out, lvs, third] }", KEEPALIVED)
    text = changed("  client: {", "  third: { lan: 10.10.10.51 }\n  client: {", text)
    found = [(each.node, each.values["state"], each.values["priority"], each.values["advert"])
             for each in placed(text) if each.step == "ipvs/keepalived"]
    assert found == [("out", "MASTER", 150, 1), ("lvs", "BACKUP", 100, 1), ("third", "BACKUP", 50, 1)]


@pytest.mark.parametrize(("text", "service", "kind", "nodes"), [
    (option("vrrp: { nopreempt: true }", KEEPALIVED), "web", "ipvs/keepalived", ["lvs", "out"]),
    (changed("nodes: [lb1, lb2] }\n", "nodes: [lb1, lb2], vrrp: { nopreempt: true } }\n", VRRP), "float",
     "vrrp/keepalived", ["lb1", "lb2"]),
])
def test_without_preemption_all_start_as_backup(text: str, service: str, kind: str, nodes: list[str]) -> None:
    """keepalived ignores nopreempt where the state is MASTER."""
    values = [values_of(text, node, kind, service) for node in nodes]
    assert [(each["state"], each["priority"], each["nopreempt"]) for each in values] == \
        [("BACKUP", 150, True), ("BACKUP", 100, True)]


@pytest.mark.parametrize("guest", GUESTS)
def test_keepalived_is_told_of_unicast_and_nopreempt_only_where_they_are_wanted(guest: str) -> None:
    plain = step_of(KEEPALIVED, "out", "ipvs/keepalived", guest=guest).write_files[1].content
    assert not any(word in plain for word in ("nopreempt", "unicast", "sync_group"))
    text = option("vrrp: { unicast: true, nopreempt: true }", NAT_KEEPALIVED)
    lines = [line.strip() for line in step_of(text, "out", "ipvs/keepalived", guest=guest)
             .write_files[1].content.splitlines()]
    assert lines.count("nopreempt") == 2
    assert [lines[at:at + 4] for at, line in enumerate(lines) if line.startswith("unicast_src_ip")] == [
        ["unicast_src_ip 20.20.20.14", "unicast_peer {", "20.20.20.11", "}"],
        ["unicast_src_ip 10.10.10.14", "unicast_peer {", "10.10.10.11", "}"]]


@pytest.mark.parametrize("guest", GUESTS)
def test_the_vip_and_the_gateway_move_together(guest: str) -> None:
    content = step_of(NAT_KEEPALIVED, "lvs", "ipvs/keepalived", guest=guest).write_files[1].content
    assert "vrrp_sync_group web_group {\n    group {\n        web\n        web_inside\n    }\n}\n" in content
    assert content.count("vrrp_instance ") == 2
    assert "        20.20.20.100/32 dev eth1\n" in content
    assert "        10.10.10.100/32 dev eth0\n" in content


def instances(text: str, node: str = "lvs", service: str = "web") -> list[dict[str, Any]]:
    return list(values_of(text, node, "ipvs/keepalived", service)["instances"])


def test_an_instance_has_the_addresses_of_one_side() -> None:
    assert instances(NAT_KEEPALIVED) == [
        {"interface": "eth1", "addresses": ["20.20.20.100"], "router_id": 52, "own": "20.20.20.11", "peers": []},
        {"interface": "eth0", "addresses": ["10.10.10.100"], "router_id": 152, "own": "10.10.10.11", "peers": []}]
    marked = option("mark: { number: 3, vips: [20.20.20.102, 20.20.20.101] }", NAT_KEEPALIVED)
    assert instances(marked)[0]["addresses"] == ["20.20.20.100", "20.20.20.102", "20.20.20.101"]


@pytest.mark.parametrize(("text", "addresses"), [
    (second_ipvs(KEEPALIVED), [["10.10.10.101"]]),
    (second_ipvs(option("real_port: 80", NAT_KEEPALIVED), vip="20.20.20.100", port="8080"), []),
    (second_ipvs(NAT_KEEPALIVED, vip="20.20.20.101"), [["20.20.20.101"]]),
    (second_ipvs(NAT_KEEPALIVED, vip="20.20.20.101", gateway="10.10.10.101", real_servers="{ rs3: 1 }")
     .replace("[rs1, rs2]", "[rs1, rs2, rs3]").replace("  out:", "  rs3: { lan: 10.10.10.15 }\n  out:"),
     [["20.20.20.101"], ["10.10.10.101"]]),
], ids=["a VIP of its own", "the same VIP", "the same gateway", "both of its own"])
def test_a_service_brings_only_addresses_that_no_earlier_one_has(text: str, addresses: list[list[str]]) -> None:
    assert [each["addresses"] for each in instances(text, service="shop")] == addresses


@pytest.mark.parametrize("guest", GUESTS)
def test_a_service_without_an_instance_has_its_table_alone(guest: str) -> None:
    text = second_ipvs(option("real_port: 80", NAT_KEEPALIVED), vip="20.20.20.100", port="8080")
    content = step_of(text, "out", "ipvs/keepalived", "shop", guest).write_files[1].content
    assert content.startswith("virtual_server 20.20.20.100 8080 {\n")
    assert "vrrp" not in content


def test_each_instance_of_a_lab_is_a_virtual_router_of_its_own() -> None:
    names = [f"s{number}" for number in range(64)]
    services = dict.fromkeys(names, service_of(NAT_KEEPALIVED))
    ids = [each for name in names for each in router_ids(name, services, Options())]
    assert len(set(ids)) == len(ids) == 128
    assert all(1 <= each <= 255 for each in ids)


# ---- The watched port ---------------------------------------------------------------------------------


def test_each_node_watches_its_own_port() -> None:
    expected = {"state": "MASTER", "priority": 150, "advert": 1, "nopreempt": False, "auth": None,
                "port": 80, "host": None, "watch_seconds": 2, "watch_failures": 3,
                "instances": [{"interface": "eth0", "addresses": ["10.10.10.100"], "router_id": 53,
                               "own": "10.10.10.11", "peers": []}]}
    assert placed(VRRP, "float")[0] == Placement("lb1", "vrrp/keepalived", expected)
    assert [each.node for each in placed(VRRP, "float")] == ["lb1", "lb2"]


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize(("host", "header"), [(None, ""), ("www.example.org", " -H Host:www.example.org")])
def test_a_node_that_does_not_serve_leaves_the_election(guest: str, host: str | None, header: str) -> None:
    placement = placed(VRRP, "float")[1]
    step = render(Placement("lb2", placement.step, {**placement.values, "host": host}), "keepalived", "float",
                  guests.load(guest), secret="key")
    content = step.write_files[1].content
    assert f'    script "/usr/bin/curl -s -o /dev/null --max-time 2{header} http://127.0.0.1:80/"\n' in content
    assert content.startswith("vrrp_script float_serves {\n")
    assert "    track_script {\n        float_serves\n    }\n" in content
    assert "    state BACKUP\n" in content
    assert step.write_files[0] == step_of(KEEPALIVED.replace("out", "lb2"), "lb2", "ipvs/keepalived",
                                          guest=guest).write_files[0], "they share keepalived's main file"


# ---- What checks rely on ------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "skews"), [
    (Options(), (106, 156, 206)), (Options(priorities=(80, 30, 1)), (176, 226, 255))])
def test_the_skew_is_longer_the_lower_the_priority(options: Options, skews: tuple[int, ...]) -> None:
    """RFC 3768: Skew_Time = (256 - Priority) / 256."""
    assert tuple(options.skew_seconds(position) * 256 for position in range(3)) == skews


@pytest.mark.parametrize(("guest", "options", "crash", "stop"), [
    # Master_Down_Interval of RFC 3768: 3 x Advertisement_Interval + Skew_Time; measured with 2.2.7 too.
    ("debian-12", {}, 3 + 156 / 256, 156 / 256),
    ("rocky-9", {"priorities": (80, 30), "advert": 2}, 6 + 226 / 256, 226 / 256),
    # What 1.3.5 does: 4.1 to 4.7 s after a crash, 1.6 to 1.7 s after a stop.
    ("centos-7", {}, 4 + 156 / 256, 1 + 156 / 256),
    ("centos-7", {"priorities": (80, 30), "advert": 2}, 8 + 226 / 256, 2 + 226 / 256),
])
def test_how_long_an_election_takes_is_a_fact_of_the_guest(
        guest: str, options: dict[str, Any], crash: float, stop: float) -> None:
    moves = failover("ipvs/keepalived", ["lvs", "out"], Options(**options), guests.load(guest).keepalived)
    assert moves
    assert (moves.crash_seconds, moves.stop_seconds) == (crash, stop)


@pytest.mark.parametrize(("guest", "crash"), [("debian-12", 3 + 156 / 256), ("centos-7", 2 * (3 + 156 / 256))])
def test_addresses_that_move_together_may_take_twice_as_long(guest: str, crash: float) -> None:
    """1.3.5 took 6.5 to 7.1 s for both instances of a sync group."""
    parsed = topology.parse(NAT_KEEPALIVED, "lab.yaml")
    (frontend,) = parsed.services["web"].frontends(parsed.services, guests.load(guest).keepalived)
    assert frontend.failover
    assert frontend.failover.crash_seconds == crash


def test_an_address_of_one_node_moves_nowhere() -> None:
    assert failover("ipvs/keepalived", ["lvs"], Options(), TIMING) is None


@pytest.mark.parametrize(("text", "service", "address", "holders", "step", "returns", "together"), [
    (BASE, "web", "10.10.10.100", ("lvs",), None, True, ()),
    (changed("[lvs, out]", "[lvs]", KEEPALIVED), "web", "10.10.10.100", ("lvs",), None, True, ()),
    (KEEPALIVED, "web", "10.10.10.100", ("lvs", "out"), "ipvs/keepalived", True, ()),
    (option("vrrp: { nopreempt: true }", KEEPALIVED), "web", "10.10.10.100", ("lvs", "out"), "ipvs/keepalived",
     False, ()),
    (NAT_KEEPALIVED, "web", "20.20.20.100", ("lvs", "out"), "ipvs/keepalived", True, ("10.10.10.100",)),
    (option("gateway: 10.10.10.11", NAT), "web", "20.20.20.100", ("lvs",), None, True, ()),
    (VRRP, "float", "10.10.10.100", ("lb1", "lb2"), "vrrp/keepalived", True, ()),
])
def test_clients_find_the_address_at_the_first_choice_and_then_at_the_next(
        text: str, service: str, address: str, holders: tuple[str, ...], step: str | None, returns: bool,
        together: tuple[str, ...]) -> None:
    parsed = topology.parse(text, "lab.yaml")
    (frontend,) = parsed.services[service].frontends(parsed.services, TIMING)
    assert (str(frontend.address), frontend.port, frontend.holders) == (address, 80, holders)
    assert frontend.failover == (step and Failover(
        steps=(step,), unit="keepalived", messages="-p vrrp", crash_seconds=3 + 156 / 256, stop_seconds=156 / 256,
        work_seconds=0, returns=returns, watch_seconds=8 if service == "float" else None))
    assert frontend.together == tuple(map(IPv4Address, together))
