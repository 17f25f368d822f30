"""labctl.language.services.haproxy: proxies in front of servers."""

import pytest
from samples import GUESTS, HAPROXY, changed, placed, service_of, step_of, told

SECOND = HAPROXY + "  other: { type: haproxy, nodes: [lb2], servers: { rs1: 1 }, port: 8080 }\n"


@pytest.mark.parametrize(("text", "expected"), [
    (changed("nodes: [lb1, lb2]", "nodes: [lb1, lb3]", HAPROXY),
     [(13, "'lb3' is not a node of this topology. Did you mean 'lb2' or 'lb1'?")]),
    (changed("nodes: [lb1, lb2]", "nodes: [lb1, lb1]", HAPROXY), [(13, "the node 'lb1' is listed twice.")]),
    (changed("rs2: 1", "rs9: 1", HAPROXY),
     [(13, "'rs9' is not a node of this topology. Did you mean 'rs2' or 'rs1'?")]),
    (changed("nodes: [rs1, rs2]", "nodes: [rs1, rs2, lb1]", HAPROXY),
     [(13, "'apache' serves port 80 on 'lb1' already.")]),
    (changed("nodes: [rs1, rs2]", "nodes: [rs1]", HAPROXY),
     [(13, "nothing serves port 80 on 'rs2'; a service such as httpd has to.")]),
    (changed("rs2: 1 } }", "rs2: 1 }, server_port: 8080 }", HAPROXY),
     [(13, f"nothing serves port 8080 on '{server}'; a service such as httpd has to.") for server in ("rs1", "rs2")]),
    (changed("rs2: { lan: 10.10.10.13 }", "rs2: { far: 10.10.20.13 }", HAPROXY),
     [(13, f"'{node}' and its server 'rs2' share no network.") for node in ("lb1", "lb2")]),
    (changed("rs2: 1", "lb1: 1", HAPROXY), [(13, "'lb1' would be a server of its own HAProxy.")]),
    (SECOND, [(14, "'proxy' is the HAProxy of 'lb2' already.")]),
    (changed("rs2: 1 } }", "rs2: 1 }, port: 22 }", HAPROXY),
     [(13, "port 22 is sshd's on every node; choose another, such as 8080.")]),
    # Proxies that are each other's servers; the last one of a loop tells.
    (changed("rs2: 1", "out: 1", changed("  client:", "  out: { lan: 10.10.10.15 }\n  client:", HAPROXY))
     + "  other: { type: haproxy, nodes: [out], servers: { rs1: 1, lb2: 1 } }\n",
     [(15, "what is sent to 'lb2' would come back to this HAProxy; leave one proxy out of the other's servers.")]),
    (HAPROXY + "  names: { type: nginx-vhosts, nodes: [client], vhosts: { a.com: [lb1] } }\n"
     "  third: { type: haproxy, nodes: [rs2], servers: { client: 1 }, port: 81 }\n",
     [(15, "'client' answers only to names such as 'a.com', and HAProxy's checks give none, so it would never "
           "use it.")]),
])
def test_a_mistake_is_told_at_its_line(text: str, expected: list[tuple[int, str]]) -> None:
    assert told(text) == expected


def test_another_proxy_may_be_elsewhere_and_in_front_of_proxies() -> None:
    assert told(changed("nodes: [lb2], servers: { rs1: 1 }", "nodes: [rs2], servers: { lb1: 1, lb2: 1 }", SECOND)) == []


def test_each_proxy_gets_its_servers_in_order_at_a_network_that_they_share() -> None:
    text = changed("lb2: { lan: 10.10.10.14 }", "lb2: { lan: 10.10.10.14, far: 10.10.20.14 }", changed(
        "rs1: { lan: 10.10.10.12 }", "rs1: { far: 10.10.20.12, lan: 10.10.10.12 }", HAPROXY))
    found = {each.node: [(server["name"], server["address"], server["weight"]) for server in each.values["servers"]]
             for each in placed(text, "proxy") if each.step == "haproxy/haproxy"}
    assert list(found) == ["lb1", "lb2"]
    assert found == {"lb1": [("rs1", "10.10.10.12", 2), ("rs2", "10.10.10.13", 1)],
                     "lb2": [("rs1", "10.10.20.12", 2), ("rs2", "10.10.10.13", 1)]}


def test_a_proxy_answers_at_its_own_nodes() -> None:
    proxy = service_of(HAPROXY, "proxy")
    assert (proxy.ports_on("lb1"), proxy.ports_on("rs1")) == ({80}, set())


@pytest.mark.parametrize("guest", GUESTS)
def test_the_configuration_has_ports_weights_and_checks(guest: str) -> None:
    text = changed("rs2: 1 } }", "rs2: 1 }, port: 81, server_port: 80 }", HAPROXY)
    step = step_of(text, "lb2", "haproxy/haproxy", "proxy", guest)
    lines = [line.strip() for line in step.write_files[0].content.splitlines()]
    assert lines[lines.index("listen web"):] == [
        "listen web",
        "bind *:81",
        "balance roundrobin",
        "option httpchk GET /",
        "http-response set-header X-Proxy lb2",
        # 1.5 takes `check` from the lines of the servers only (src/server.c).
        "default-server inter 2s fall 3 rise 1",
        "server rs1 10.10.10.12:80 check weight 2",
        "server rs2 10.10.10.13:80 check weight 1",
    ]
    assert step.units == ["haproxy"]
