"""labctl.language.services.nginx and nginx_vhosts: servers, and proxies that look at the Host header."""

import pytest
from samples import GUESTS, HAPROXY, changed, placed, service_of, step_of, told, values_of

from labctl.language.services.base import host_at

NGINX = HAPROXY[:HAPROXY.index("  proxy:")].replace("httpd", "nginx")
VHOSTS = HAPROXY.replace("haproxy, nodes: [lb1, lb2], servers: { rs1: 2, rs2: 1 } }",
                         "nginx-vhosts, nodes: [lb1, lb2], vhosts: { a.com: [rs1, rs2], www.b.com: [rs2] } }")


@pytest.mark.parametrize(("text", "expected"), [
    (changed("[rs1, rs2]", "[rs1, rs9]", NGINX),
     [(12, "'rs9' is not a node of this topology. Did you mean 'rs2' or 'rs1'?")]),
    (changed("[rs1, rs2]", "[rs1, rs1]", NGINX), [(12, "the node 'rs1' is listed twice.")]),
    (NGINX + "  other: { type: httpd, nodes: [rs2] }\n", [(13, "'apache' serves port 80 on 'rs2' already.")]),
    (changed("[lb1, lb2]", "[lb1, lb9]", VHOSTS),
     [(13, "'lb9' is not a node of this topology. Did you mean 'lb2' or 'lb1'?")]),
    (changed("[lb1, lb2]", "[lb1, rs1]", VHOSTS), [(13, "'apache' serves port 80 on 'rs1' already.")]),
    (changed("www.b.com: [rs2]", "www.b.com: [rs9]", VHOSTS),
     [(13, "'rs9' is not a node of this topology. Did you mean 'rs2' or 'rs1'?")]),
    (changed("a.com: [rs1, rs2]", "a.com: [rs1, rs1]", VHOSTS), [(13, "the node 'rs1' is listed twice.")]),
    (changed("www.b.com: [rs2]", "www.b.com: []", VHOSTS), [(13, "services.proxy.vhosts.www.b.com: is empty.")]),
    (changed("www.b.com: [rs2]", "www.b.com: [client]", VHOSTS),
     [(13, "nothing serves HTTP on 'client'; a service such as httpd has to.")]),
    (changed("[lb1, lb2]", "[lb1]", VHOSTS)
     + "  more: { type: nginx-vhosts, nodes: [lb2], vhosts: { a.com: [lb1], b.com: [rs1, lb1] } }\n",
     [(14, "'lb1' answers only to names such as 'a.com', and 'b.com' is none of them.")]),
    # A loop over two others, of which the last one in the file tells; who only asks one of them is in none.
    (changed("www.b.com: [rs2]", "www.b.com: [client]", changed("[lb1, lb2]", "[lb1]", VHOSTS))
     + "  second: { type: haproxy, nodes: [lb2], servers: { lb1: 1 } }\n"
     "  third: { type: haproxy, nodes: [client], servers: { lb2: 1 } }\n"
     "  fourth: { type: haproxy, nodes: [rs2], servers: { client: 1 }, port: 81 }\n",
     [(14, "'lb1' answers only to names such as 'a.com', and HAProxy's checks give none, so it would never use it."),
      (15, "what is sent to 'lb2' would come back to this HAProxy; leave one proxy out of the other's servers.")]),
    (changed("port: 80", "port: 22", NGINX + "  more: { type: nginx, nodes: [lb1], port: 80 }\n"),
     [(13, "port 22 is sshd's on every node; choose another, such as 8080.")]),
    (changed("www.b.com: [rs2]", "A.com: [rs2]", VHOSTS), [(13, "'A.com' and 'a.com' are the same host name.")]),
    (changed("rs2: { lan: 10.10.10.13 }", "rs2: { far: 10.10.20.13 }", VHOSTS),
     [(13, f"'{node}' and 'rs2' share no network, so the proxy could not reach it.") for node in ("lb1", "lb2")]),
    *((changed("www.b.com:", f'"{host}":', VHOSTS),
       [(13, f"'{host}' is not a host name: letters, digits and '-', in parts joined by dots.")])
      for host in ("-b.com", "b-.com", "b_c.com", "b..com", ".com", "b.com.", "b com", "ü.com", f"{'b' * 64}.com",
                   ".".join(["b" * 63] * 4), "*.b.com", "b.com;")),
])
def test_a_mistake_is_told_at_its_line(text: str, expected: list[tuple[int, str]]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize("host", ["b", "B2.com", "10.com", "x-y.z", f"{'b' * 63}.com"])
def test_a_host_name_is_anything_that_dns_could_have(host: str) -> None:
    assert told(changed("www.b.com:", f'"{host}":', VHOSTS)) == []


def test_a_server_may_share_its_node_with_another_on_another_port() -> None:
    text = NGINX + "  other: { type: httpd, nodes: [rs2], port: 80 }\n"
    assert told(changed("nodes: [rs1, rs2]", "nodes: [rs1, rs2], port: 8080", text)) == []


def test_the_page_and_the_port_come_before_the_start() -> None:
    assert [(each.node, each.step) for each in placed(NGINX, "apache")] == [
        (node, f"nginx/{step}") for node in ("rs1", "rs2") for step in ("page", "site", "nginx")]
    assert [(each.node, each.step) for each in placed(VHOSTS, "proxy")] == [
        (node, step) for node in ("lb1", "lb2")
        for step in ("nginx-vhosts/vhosts", "nginx-vhosts/default", "nginx/nginx")]


def test_servers_are_asked_at_a_network_that_is_shared_and_at_their_port() -> None:
    text = changed("lb2: { lan: 10.10.10.14 }", "lb2: { far: 10.10.20.14, lan: 10.10.10.14 }", changed(
        "rs2: { lan: 10.10.10.13 }", "rs2: { far: 10.10.20.13, lan: 10.10.10.13 }", changed(
            "httpd, nodes: [rs1, rs2]", "nginx, port: 8080, nodes: [rs1, rs2]", VHOSTS)))
    found = {node: values_of(text, node, "nginx-vhosts/vhosts", "proxy")["vhosts"] for node in ("lb1", "lb2")}
    assert found["lb1"] == [{"host": "a.com", "servers": ["10.10.10.12:8080", "10.10.10.13:8080"]},
                            {"host": "www.b.com", "servers": ["10.10.10.13:8080"]}]
    assert found["lb2"][1] == {"host": "www.b.com", "servers": ["10.10.20.13:8080"]}


def test_proxies_answer_to_their_hosts_and_servers_to_any() -> None:
    assert service_of(VHOSTS, "proxy").hosts() == ["a.com", "www.b.com"]
    assert service_of(VHOSTS, "proxy").ports_on("lb1") == {80}
    assert service_of(VHOSTS, "proxy").ports_on("rs1") == set()
    assert service_of(NGINX, "apache").hosts() == ()
    assert service_of(changed("[rs1, rs2]", "[rs1], port: 81", NGINX), "apache").ports_on("rs1") == {81}
    services = {name: service_of(VHOSTS, name) for name in ("apache", "proxy")}
    assert (host_at(["lb1"], 80, services), host_at(["rs1"], 80, services)) == ("a.com", None)


@pytest.mark.parametrize("guest", GUESTS)
def test_each_host_has_a_server_block_and_strangers_have_another(guest: str) -> None:
    vhosts = step_of(VHOSTS, "lb1", "nginx-vhosts/vhosts", "proxy", guest).write_files[0].content
    assert vhosts.count("server_name ") == vhosts.count("zone ") == 2
    assert "proxy_set_header Host $host;" in vhosts
    assert 'return 200 "lb1 ";' in vhosts
    assert "default_server" not in vhosts
    assert "listen 80 default_server;\n    return 421;" in step_of(
        VHOSTS, "lb1", "nginx-vhosts/default", "proxy", guest).write_files[0].content
