"""labctl.language.services.heartbeat: an address of two machines."""

from ipaddress import IPv4Address

import pytest
from samples import HAPROXY, TIMING, changed, placed, plan_of, service_of, step_of, told, values_of

HEARTBEAT = HAPROXY[:HAPROXY.index("  apache:")] + """\
  site: { type: nginx, nodes: [lb1, lb2] }
  vip: { type: heartbeat, vip: 10.10.10.100, nodes: [lb1, lb2], watch: http }
"""


@pytest.mark.parametrize(("text", "expected"), [
    (changed("100, nodes: [lb1, lb2]", "100, nodes: [lb1, lb9]", HEARTBEAT),
     [(13, "'lb9' is not a node of this topology. Did you mean 'lb2' or 'lb1'?")]),
    (changed("100, nodes: [lb1, lb2]", "100, nodes: [lb1, lb1]", HEARTBEAT), [(13, "the node 'lb1' is listed twice.")]),
    (changed("100, nodes: [lb1, lb2]", "100, nodes: [lb1]", HEARTBEAT),
     [(13, "heartbeat needs exactly two nodes, not 1.")]),
    (changed("[lb1, lb2], watch", "[lb1, lb2, rs1], watch", HEARTBEAT).replace("[lb1, lb2] }", "[lb1, lb2, rs1] }"),
     [(13, "heartbeat needs exactly two nodes, not 3.")]),
    (changed("10.10.10.100", "10.10.10.11", HEARTBEAT),
     [(13, "10.10.10.11 is the address of 'lb1'; a VIP needs one of its own.")]),
    (changed("10.10.10.100", "10.0.0.1", HEARTBEAT), [(13, "10.0.0.1 is in no network of this topology.")]),
    (changed("lb2: { lan: 10.10.10.14 }", "lb2: { far: 10.10.20.14 }", HEARTBEAT),
     [(13, "'lb2' is not on 'lan', the VIP's segment.")]),
    (changed("100, nodes: [lb1, lb2]", "100, nodes: [lb1, client]", HEARTBEAT).replace(
        "[lb1, lb2] }", "[lb1, client] }"),
     [(13, "the client 'client' is part of the service; checks need one outside of it.")]),
    (changed("watch: http", "port: 81", HEARTBEAT),
     [(13, f"nothing serves port 81 on '{node}'; a service such as nginx has to.") for node in ("lb1", "lb2")]),
    (HEARTBEAT + "  other: { type: heartbeat, vip: 10.10.10.101, nodes: [rs1, lb2] }\n"
                 "  more: { type: nginx, nodes: [rs1] }\n",
     [(14, "'lb2' is in the cluster 'vip' already.")]),
    (HEARTBEAT + "  other: { type: heartbeat, vip: 10.10.10.100, nodes: [rs1, rs2] }\n"
                 "  more: { type: nginx, nodes: [rs1, rs2] }\n",
     [(14, "10.10.10.100 is the VIP of 'vip' already.")]),
    (HEARTBEAT + "  other: { type: vrrp, vip: 10.10.10.100, nodes: [rs1, rs2] }\n"
                 "  more: { type: nginx, nodes: [rs1, rs2] }\n",
     [(14, "10.10.10.100 is the VIP of 'vip' already.")]),
])
def test_a_mistake_is_told_at_its_line(text: str, expected: list[tuple[int, str]]) -> None:
    assert told(text) == expected


def test_the_watch_is_there_if_asked_for() -> None:
    steps = ["heartbeat/authkeys", "heartbeat/resources", "heartbeat/heartbeat", "heartbeat/watch"]
    assert [(each.node, each.step) for each in placed(HEARTBEAT, "vip")] == [
        (node, step) for node in ("lb1", "lb2") for step in steps]
    assert not any("watch" in each.step for each in placed(changed(", watch: http", "", HEARTBEAT), "vip"))


def test_both_nodes_want_the_address_at_the_first() -> None:
    found = [values_of(HEARTBEAT, node, "heartbeat/resources", "vip") for node in ("lb1", "lb2")]
    assert found[0] == found[1]
    assert (found[0]["first"], found[0]["vip"], found[0]["prefix"], found[0]["interface"]) == \
        ("lb1", "10.10.10.100", 24, "eth0")


def test_each_node_talks_to_the_other_and_watches_itself() -> None:
    lines = {node: step_of(HEARTBEAT, node, "heartbeat/heartbeat", "vip").write_files[0].content.splitlines()
             for node in ("lb1", "lb2")}
    assert [line for line in lines["lb1"] if "ucast" in line] == ["ucast eth0 10.10.10.14"]
    assert [line for line in lines["lb2"] if "ucast" in line] == ["ucast eth0 10.10.10.11"]
    assert [line for line in lines["lb1"] if line.startswith("node")] == ["node lb1", "node lb2"]
    watch = values_of(HEARTBEAT, "lb2", "heartbeat/watch", "vip")
    assert (watch["url"], watch["peer_url"]) == ("http://10.10.10.14:80/", "http://10.10.10.11:80/")


@pytest.mark.parametrize(("option", "setting", "comes_back"), [
    ("", "auto_failback on", [True, False]),
    (", auto_failback: false", "auto_failback off", [False, False]),
])
def test_only_the_first_node_comes_back_and_only_if_it_should(
    option: str, setting: str, comes_back: list[bool],
) -> None:
    text = changed("watch: http", f"watch: http{option}", HEARTBEAT)
    assert [values_of(text, node, "heartbeat/watch", "vip")["comes_back"] for node in ("lb1", "lb2")] == comes_back
    assert setting in step_of(text, "lb2", "heartbeat/heartbeat", "vip").write_files[0].content
    frontend, = service_of(text, "vip").frontends({}, TIMING)
    assert frontend.failover.returns is comes_back[0]


def test_the_watch_asks_for_a_host_that_the_server_knows() -> None:
    text = changed("site: { type: nginx, nodes: [lb1, lb2] }", "site: { type: nginx-vhosts, nodes: [lb1, lb2], "
                   "vhosts: { a.com: [rs1] } }", HEARTBEAT) + "  apache: { type: httpd, nodes: [rs1] }\n"
    assert "-H 'Host: a.com'" in step_of(text, "lb1", "heartbeat/watch", "vip").write_files[0].content


def test_clients_use_the_vip_and_the_first_node_has_it() -> None:
    frontend, = service_of(HEARTBEAT, "vip").frontends({}, TIMING)
    assert (frontend.address, frontend.port, frontend.holders) == (IPv4Address("10.10.10.100"), 80, ("lb1", "lb2"))


def test_the_key_is_the_same_on_both_nodes_and_another_in_each_lab_and_service() -> None:
    def keys(lab: str, text: str = HEARTBEAT) -> set[str]:
        plan = plan_of(text, lab)
        return {step.write_files[0].content for node in plan.nodes for step in node.steps
                if step.kind == "heartbeat/authkeys"}

    other = changed("  vip: {", "  float: {", HEARTBEAT)
    assert len(keys("one")) == 1
    assert len(keys("one") | keys("two") | keys("one", other)) == 3
    assert step_of(HEARTBEAT, "lb1", "heartbeat/authkeys", "vip").write_files[0].permissions == "0600"


def test_a_silent_web_server_is_known_after_so_many_failures() -> None:
    assert service_of(HEARTBEAT, "vip").watch_seconds == 3 * (5 + 2) + 2
    assert service_of(changed("watch: http", "watch: http, interval: 1", HEARTBEAT), "vip").watch_seconds == \
        3 * (1 + 2) + 2
