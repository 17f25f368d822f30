"""labctl.language.services: what all types have in common, and httpd."""

import re

import pytest
from samples import (
    BASE,
    GUESTS,
    HAPROXY,
    KEEPALIVED,
    NAT,
    NAT_KEEPALIVED,
    SHIPPED,
    TIMING,
    TUN,
    VRRP,
    changed,
    option,
    placed,
    plan_of,
    runs_on,
    second_ipvs,
    service_of,
    step_of,
)

from labctl.base.resources import STEPS
from labctl.language import topology
from labctl.language.services import Frontend, Httpd, Placement
from labctl.language.services.base import host_at

TEXTS = {
    "dr": BASE, "dr-keepalived": KEEPALIVED, "nat": NAT, "nat-keepalived": NAT_KEEPALIVED, "tun": TUN,
    "haproxy": HAPROXY, "vrrp": VRRP,
    "snat": option("snat: true", NAT),
    "script-http": option("check: { type: http }", NAT),
    "script-tcp": option("check: { type: tcp }"),
    "mark": option("mark: { number: 3, vips: [20.20.20.101], ports: [8080] }", NAT),
    "mark-keepalived": option("mark: { number: 3 }", NAT_KEEPALIVED),
    "client-keepalived": option("persistence: { per: client }", NAT_KEEPALIVED),
    "unicast": option("vrrp: { unicast: true, nopreempt: true }", KEEPALIVED),
    "two": second_ipvs(KEEPALIVED),
    "port": changed("[rs1, rs2] }", "[rs1, rs2], port: 8080 }", option("real_port: 8080", NAT)),
} | {path.stem: path.read_text() for path in SHIPPED}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_step_has_its_file(text: str) -> None:
    parsed = topology.parse(text, "lab.yaml")
    for name, service in parsed.services.items():
        for placement in service.placements(parsed, name, parsed.services):
            assert list(STEPS.glob(f"{placement.step}*.yaml")), placement.step


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_step_has_all_that_its_template_asks_for(text: str, guest: str) -> None:
    """A variable that nobody set ends the rendering; what is set to nothing has to be left out, not written out."""
    if not runs_on(text, guest):
        return
    for node in plan_of(text, guest=guest).nodes:
        for step in node.steps:
            done = [*step.runcmd, *step.undo, *step.units, *(file.content for file in step.write_files)]
            assert not [line for line in done if "None" in line or "{%" in line or "{{" in line], step.name


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_step_overwrites_another_ones_file(text: str) -> None:
    for node in plan_of(text).nodes:
        files: dict[str, str] = {}
        for step in node.steps:
            for file in step.write_files:
                assert files.setdefault(file.path, file.content) == file.content, (step.name, file.path)


def keepalived_files(text: str, guest: str = "debian-12") -> list[str]:
    """The text of all files that keepalived includes, a string for each node that has some."""
    per_node = [[file.content for step in node.steps for file in step.write_files if "/keepalived/conf.d/" in file.path]
                for node in plan_of(text, guest=guest).nodes]
    return ["\n".join(files) for files in per_node if files]


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("line", ["persistence: { per: client }", "persistence: { per: port }", "mark: { number: 3 }",
                                  "check: { type: tcp }"])
@pytest.mark.parametrize("text", [KEEPALIVED, NAT_KEEPALIVED], ids=["dr", "nat"])
def test_each_virtual_server_of_keepalived_has_a_port_or_a_mark(text: str, line: str, guest: str) -> None:
    """1.3.5 ends where there is none."""
    files = keepalived_files(option(line, text), guest)
    assert len(files) == 2
    for content in files:
        (virtual,) = re.findall(r"^virtual_server (.*) \{$", content, re.MULTILINE)
        assert re.fullmatch(r"fwmark \d+|[0-9.]+ \d+", virtual)


@pytest.mark.parametrize("guest", GUESTS)
def test_a_machine_keeps_the_capitals_of_its_name(guest: str) -> None:
    """hostnamectl of CentOS 7, which cloud-init calls, makes small letters of them."""
    (step,) = [step for step in plan_of(BASE.replace("rs1", "C7B1"), guest=guest).node("C7B1").steps
               if step.kind == "base/hosts"]
    assert step.runcmd == ["echo C7B1 >/etc/hostname", "hostname C7B1"]


SECOND_VRRP = VRRP + "  more: { type: vrrp, vip: 10.10.10.101, nodes: [lb2, lb1] }\n"
SECOND_NAT = second_ipvs(
    changed("[rs1, rs2]", "[rs1, rs2, rs3]", changed("  out:", "  rs3: { lan: 10.10.10.15 }\n  out:", NAT_KEEPALIVED)),
    "more", vip="20.20.20.101", gateway="10.10.10.101", real_servers="{ rs3: 1 }")
TWO_NGINX = HAPROXY.replace("haproxy, nodes: [lb1, lb2], servers: { rs1: 2, rs2: 1 } }",
                            "nginx-vhosts, nodes: [lb1, lb2], vhosts: { a.com: [rs1] } }") \
    + "  more: { type: nginx, nodes: [lb1, lb2], port: 8080 }\n"


@pytest.mark.parametrize("suffix", ["-inside", "-group", "-serves", "-default", "-0", "s"])
@pytest.mark.parametrize(("text", "name"), [
    (SECOND_NAT, "web"), (SECOND_VRRP, "float"), (TWO_NGINX, "proxy"), (second_ipvs(BASE, "more"), "web"),
], ids=["ipvs", "vrrp", "nginx", "ipvsadm"])
def test_services_with_similar_names_do_not_share_anything(text: str, name: str, suffix: str) -> None:
    """What a step adds to its service's name may not make another service's of it."""
    similar = text.replace("  more:", f"  {name}{suffix}:")
    for node, plain in zip(plan_of(similar).nodes, plan_of(text).nodes, strict=True):
        paths, before = ({file.path for step in each.steps for file in step.write_files} for each in (node, plain))
        assert len(paths) == len(before)
    for content in keepalived_files(similar):
        blocks = re.findall(r"^(vrrp_\w+ \S+|virtual_server .*) \{$", content, re.MULTILINE)
        assert len(set(blocks)) == len(blocks)


@pytest.mark.parametrize(("port", "expected"), [
    (80, [Placement("rs1", "httpd/page"), Placement("rs1", "httpd/httpd")]),
    (8080, [Placement("rs1", "httpd/page"), Placement("rs1", "httpd/port", {"port": 8080}),
            Placement("rs1", "httpd/httpd")]),
])
def test_httpd_gets_a_page_then_its_port_and_is_started(port: int, expected: list[Placement]) -> None:
    text = changed("nodes: [rs1, rs2] }", f"nodes: [rs1, out], port: {port} }}", BASE[:BASE.index("  web:")])
    assert placed(text, "apache") == [*expected, *(Placement("out", each.step, each.values) for each in expected)]


def test_httpd_answers_on_the_port_of_its_nodes() -> None:
    apache = service_of(HAPROXY, "apache")
    assert (apache.ports_on("rs1"), apache.ports_on("lb1")) == ({80}, set())
    assert Httpd(type="httpd", nodes=["a"], port=8080).ports_on("a") == {80, 8080}


@pytest.mark.parametrize("guest", GUESTS)
def test_httpd_listens_on_another_port_beside_the_packaged_one(guest: str) -> None:
    text = changed("[rs1, rs2] }", "[rs1, rs2], port: 8080 }", option("real_port: 8080", NAT))
    (file,) = step_of(text, "rs1", "httpd/port", "apache", guest).write_files
    assert file.path.endswith("/port-8080.conf")
    assert file.content.splitlines()[0] == "Listen 8080"


@pytest.mark.parametrize(("text", "service"), [(BASE, "apache"), (HAPROXY, "proxy"), (TUN, "way")])
def test_a_service_at_its_nodes_own_addresses_has_no_frontend(text: str, service: str) -> None:
    parsed = topology.parse(text, "lab.yaml")
    assert list(parsed.services[service].frontends(parsed.services, TIMING)) == []


def frontend(text: str, service: str = "web") -> Frontend:
    parsed = topology.parse(text, "lab.yaml")
    (found,) = parsed.services[service].frontends(parsed.services, TIMING)
    return found


@pytest.mark.parametrize(("text", "service"), [
    (BASE, "web"), (KEEPALIVED, "web"), (option("real_port: 80", NAT), "web"), (VRRP, "float"),
])
def test_a_frontend_is_asked_for_a_host_that_its_servers_answer_to(
        text: str, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert frontend(text, service).host is None
    kind = type(service_of(text, "proxy" if service == "float" else "apache"))
    monkeypatch.setattr(kind, "hosts", lambda _: ("www.example.org", "example.org"))
    assert frontend(text, service).host == "www.example.org"


def test_the_host_is_that_of_the_service_at_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Httpd, "hosts", lambda self: (f"at-{self.port}",))
    services = {f"s{port}": Httpd(type="httpd", nodes=["rs1"], port=port) for port in (80, 8080)}
    assert [host_at(["rs1"], port, services) for port in (80, 8080, 81)] == ["at-80", "at-8080", None]
    assert host_at(["rs2"], 80, services) is None
