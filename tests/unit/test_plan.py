"""labctl.plan.plan: one topology, one name, one guest: always the same plan."""

import re
from ipaddress import IPv4Address

import pytest
from samples import BASE, GUESTS, KEEPALIVED, SHIPPED, changed, plan_of, runs_on, second_ipvs

from labctl.base.errors import LabError
from labctl.plan.plan import Plan

CASES = [
    pytest.param(path.read_text(), guest, id=f"{path.stem}-{guest}") for path in SHIPPED for guest in GUESTS
    if runs_on(path.read_text(), guest)
]


def macs(plan: Plan) -> list[str]:
    return [interface.mac for node in plan.nodes for interface in node.interfaces]


def step_names(plan: Plan, node: str) -> list[str]:
    return [step.name for step in plan.node(node).steps]


@pytest.mark.parametrize(("text", "guest"), CASES)
def test_a_plan_is_the_same_every_time(text: str, guest: str) -> None:
    one, two = plan_of(text, guest=guest), plan_of(text, guest=guest)
    assert one == two
    assert one.digest == two.digest
    assert re.fullmatch("[0-9a-f]{64}", one.digest)


@pytest.mark.parametrize(("text", "guest"), CASES)
def test_a_plan_survives_json(text: str, guest: str) -> None:
    plan = plan_of(text, guest=guest)
    again = Plan.model_validate_json(plan.model_dump_json(exclude={"digest"}))
    assert again == plan
    assert again.digest == plan.digest


def test_anything_different_gives_another_digest() -> None:
    texts = [
        BASE,
        changed("10.10.10.12", "10.10.10.22"),
        changed("rs2: 2", "rs2: 3"),
        changed("Test bed", "Bed"),
        changed("client: {", "client: { memory: 1024,"),
        KEEPALIVED,
    ]
    plans = [*map(plan_of, texts), plan_of(lab="other"), plan_of(guest="centos-7")]
    assert len({plan.digest for plan in plans}) == len(plans)


def test_labs_of_the_same_topology_have_nothing_in_common() -> None:
    one, two = plan_of(lab="one"), plan_of(lab="two")
    assert not set(macs(one)) & set(macs(two))


def test_identities_depend_on_names_alone() -> None:
    """So that a node stays the machine it was when the topology around it changes."""
    one, two = plan_of(), plan_of(changed("rs2: 2", "rs2: 3"), guest="centos-7")
    assert macs(one) == macs(two)


@pytest.mark.parametrize(("text", "guest"), CASES)
def test_macs_are_unicast_locally_administered_and_unique(text: str, guest: str) -> None:
    found = macs(plan_of(text, guest=guest))
    assert len(set(found)) == len(found)
    for mac in found:
        assert re.fullmatch("([0-9a-f]{2}:){5}[0-9a-f]{2}", mac)
        assert int(mac[:2], 16) & 0b11 == 0b10


def test_interfaces_are_in_the_order_of_the_file() -> None:
    lvs = plan_of(changed("lvs: { lan: 10.10.10.11, far: 10.10.20.11 }",
                          "lvs: { far: 10.10.20.11, lan: 10.10.10.11 }")).node("lvs")
    assert [(i.name, i.network, str(i.address), i.prefix) for i in lvs.interfaces] == \
        [("eth0", "far", "10.10.20.11", 24), ("eth1", "lan", "10.10.10.11", 24)]
    assert lvs.interface_to(IPv4Address("10.10.10.100")).name == "eth1"


def test_ssh_goes_to_a_network_that_the_physical_machine_is_on() -> None:
    plan = plan_of(changed("lvs: { lan: 10.10.10.11, far: 10.10.20.11 }",
                           "lvs: { far: 10.10.20.11, lan: 10.10.10.11 }"))
    assert str(plan.access_address(plan.node("lvs"))) == "10.10.10.11"


def test_memory_is_the_guests_unless_the_node_says_otherwise() -> None:
    plan = plan_of(changed("rs1: { lan", "rs1: { memory: 2048, cpus: 2, lan"))
    assert (plan.node("rs1").memory, plan.node("rs1").cpus) == (2048, 2)
    assert (plan.node("rs2").memory, plan.node("rs2").cpus) == (plan.guest.memory, 1)


def test_every_node_begins_with_the_hosts_file() -> None:
    plan = plan_of()
    assert {node.steps[0].name for node in plan.nodes} == {"hosts"}
    assert plan.node("client").steps[0].write_files[0].content.splitlines() == [
        "127.0.0.1 localhost", "10.10.10.11 lvs", "10.10.10.12 rs1", "10.10.10.13 rs2", "10.10.10.14 out",
        "10.10.10.50 client"]


def test_steps_follow_the_services() -> None:
    plan = plan_of()
    assert step_names(plan, "rs1") == ["hosts", "packages", "page", "httpd", "arp", "vip-lo"]
    assert step_names(plan, "lvs") == ["hosts", "packages", "vip", "rules"]
    assert plan.node("rs1").units == [plan.guest.facts["httpd_unit"], "lvs-vip-web"]


@pytest.mark.parametrize(("text", "node", "expected"), [
    (BASE, "lvs", ["vip.web", "rules.web", "vip.shop", "rules.shop"]),
    (KEEPALIVED, "lvs", ["keepalived.web", "keepalived.shop"]),
    (KEEPALIVED, "out", ["keepalived.web", "keepalived.shop"]),
    (KEEPALIVED, "rs1", ["page", "httpd", "arp", "vip-lo.web", "vip-lo.shop"]),
])
def test_a_step_that_two_services_share_is_one_and_others_say_whose_they_are(
        text: str, node: str, expected: list[str]) -> None:
    plan = plan_of(second_ipvs(text))
    assert [step.name for step in plan.node(node).steps if step.service] == expected
    paths = [file.path for step in plan.node(node).steps for file in step.write_files
             if not file.path.endswith("keepalived.conf")]
    assert len(set(paths)) == len(paths), "one service's step would overwrite the other's file"


def test_two_services_of_one_pair_of_directors_have_the_same_main_configuration() -> None:
    steps = plan_of(second_ipvs(KEEPALIVED)).node("lvs").steps[1:]
    mains = [
        file.content for step in steps for file in step.write_files if file.path.endswith("keepalived.conf")
    ]
    assert len(mains) == 2
    assert len(set(mains)) == 1


def test_step_names_are_unique_on_a_node_whatever_services_are_called() -> None:
    """`vip` of a service called `lo` and `vip-lo` of another one are not the same step."""
    text = second_ipvs(BASE.replace("nodes: [rs1, rs2]", "nodes: [rs1, rs2, lvs]").replace("web:", "lo:")
                       .replace("  lo:", "  web:"))
    third = text[text.index("  web:"):text.index("  shop:")].replace("web:", "third:") \
        .replace("10.10.10.100", "10.10.10.102").replace("[lvs]", "[out]").replace("rs1: 1", "lvs: 1")
    text = text.replace("  web:", "  lo:") + third
    names = step_names(plan_of(text), "lvs")
    assert len(set(names)) == len(names), names


def test_clients_and_frontends_are_found() -> None:
    plan = plan_of()
    assert [node.name for node in plan.clients()] == ["client"]
    assert [(str(frontend.address), frontend.port) for frontend in plan.frontends()] == [("10.10.10.100", 80)]


def test_a_node_or_step_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(LabError, match="The lab 'lab' has no node called 'rs3'") as caught:
        plan_of().node("rs3")
    assert "'rs1' or 'rs2'" in caught.value.hint or "'rs2' or 'rs1'" in caught.value.hint
    with pytest.raises(LabError, match="'rs1' has no step called 'aro'") as caught:
        plan_of().node("rs1").step("aro")
    assert "'arp'" in caught.value.hint
    assert plan_of().node("rs1").step("arp").kind == "ipvs/arp"


def test_what_a_guest_lacks_is_refused_with_the_reason() -> None:
    text = next(path for path in SHIPPED if path.stem == "nginx-heartbeat").read_text()
    with pytest.raises(LabError) as caught:
        plan_of(text, guest="rocky-9")
    assert caught.value.message.splitlines() == [
        "The service 'clock' cannot run on Rocky Linux 9: its only time server is chrony, not ntpd.",
        "The service 'vip' cannot run on Rocky Linux 9: it has neither a package of heartbeat nor the init scripts "
        "that heartbeat needs."]
    assert caught.value.hint == "'--guest centos-7' or '--guest debian-12' can."
