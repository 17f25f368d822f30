"""labctl.plan.seed: what cloud-init gets to see."""

import io
import re
from typing import Any

import pycdlib
import pytest
import yaml
from samples import BASE, GUESTS, KEEPALIVED, keys_of, plan_of

from labctl.plan import seed
from labctl.plan.plan import Plan, PlannedNode

PLANS = [pytest.param(plan_of(text, guest=guest), id=f"{name}-{guest}")
         for name, text in (("ipvsadm", BASE), ("keepalived", KEEPALIVED)) for guest in GUESTS]

# cloud-init 19.4, the one of EL7, has no such module, or our images do without it.
IGNORED = {"ntp", "ca_certs", "ca-certs", "seed_random", "random_seed", "ssh_import_id", "vendor_data"}


def parsed(plan: Plan, node: PlannedNode) -> dict[str, Any]:
    return {name: yaml.safe_load(text) for name, text in seed.files(plan, node, keys_of(plan)).items()}


@pytest.mark.parametrize("plan", PLANS)
def test_user_data_is_a_cloud_config_that_says_what_the_steps_say(plan: Plan) -> None:
    for node in plan.nodes:
        text = seed.files(plan, node, keys_of(plan))["user-data"]
        assert text.startswith("#cloud-config\n")
        data = yaml.safe_load(text)
        assert data["write_files"] == [
            {"path": file.path, "permissions": file.permissions, "content": file.content}
            for step in node.steps for file in step.write_files]
        for step in node.steps:
            assert all(command in data["runcmd"] for command in step.runcmd)


@pytest.mark.parametrize("plan", PLANS)
def test_nothing_is_used_that_an_old_cloud_init_ignores(plan: Plan) -> None:
    for node in plan.nodes:
        data = parsed(plan, node)["user-data"]
        assert not IGNORED & data.keys()
        assert all(file.keys() <= {"path", "permissions", "content"} for file in data["write_files"])
        assert all(isinstance(command, str) for command in data["runcmd"])
        assert all(re.fullmatch("0[0-7]{3}", file["permissions"]) for file in data["write_files"])


@pytest.mark.parametrize("plan", PLANS)
def test_each_node_gets_its_own_host_key_and_the_login_key(plan: Plan) -> None:
    for node in plan.nodes:
        data = parsed(plan, node)["user-data"]
        assert data["ssh_keys"] == {"ed25519_private": f"HOST-PRIVATE-KEY {node.name}\n",
                                    "ed25519_public": f"ssh-ed25519 HOST-PUBLIC-KEY-{node.name}"}
        assert data["ssh_authorized_keys"] == ["ssh-ed25519 LOGIN-PUBLIC-KEY"]
        assert data["ssh_deletekeys"] is True
        assert data["ssh_pwauth"] is False
        others = [other for other in plan.nodes if other is not node]
        everything = str(seed.files(plan, node, keys_of(plan)))
        assert not any(f"HOST-PRIVATE-KEY {other.name}\n" in everything for other in others)
        assert "LOGIN-PRIVATE-KEY" not in everything


def test_the_script_stops_at_the_first_failure_names_the_step_and_leaves_the_digest() -> None:
    plan = plan_of()
    commands = parsed(plan, plan.node("rs1"))["user-data"]["runcmd"]
    assert commands[0] == "set -e"
    assert sum("the step rs1/$step failed" in command for command in commands[:commands.index("step=hosts")]) == 1
    steps = [command for command in commands if command.startswith("step=")]
    assert steps == [f"step={step.name}" for step in plan.node("rs1").steps]
    assert commands[-2:] == [f"echo {plan.digest} >{seed.CONFIGURED}", "sync"]
    assert commands.index("step=arp") < commands.index("sysctl -p /etc/sysctl.d/60-lvs-arp.conf") \
        < commands.index("touch /var/lib/labctl/steps/arp") < commands.index("step=vip-lo")


def test_meta_data_has_the_nodes_own_identity() -> None:
    plan = plan_of()
    found = {node.name: parsed(plan, node)["meta-data"] for node in plan.nodes}
    assert {name: data["local-hostname"] for name, data in found.items()} == {name: name for name in found}
    assert len({data["instance-id"] for data in found.values()}) == len(plan.nodes)


@pytest.mark.parametrize("plan", PLANS)
def test_network_config_is_version_1_with_every_interface_and_no_vip(plan: Plan) -> None:
    vips = {str(frontend.address) for frontend in plan.frontends()}
    assert vips
    for node in plan.nodes:
        config = parsed(plan, node)["network-config"]
        assert config["version"] == 1
        assert [entry["name"] for entry in config["config"]] == [
            f"eth{n}" for n in range(len(node.interfaces))
        ]
        for entry, interface in zip(config["config"], node.interfaces, strict=True):
            assert entry["type"] == "physical"
            assert entry["mac_address"] == interface.mac == interface.mac.lower()
            assert entry["subnets"] == [
                {"type": "static", "address": f"{interface.address}/{interface.prefix}"}
            ]
        assert not any(vip in seed.files(plan, node, keys_of(plan))["network-config"] for vip in vips)


def test_a_mac_stays_text_even_where_it_looks_like_a_number() -> None:
    """YAML 1.1 reads 52:54:00:12:34:56 as a number to the base of 60, and so does cloud-init."""
    plan = plan_of(lab="lab66")
    mac = plan.node("rs1").interfaces[0].mac
    assert isinstance(yaml.safe_load(mac), int), (
        "this test shows nothing: find a lab name that gives such a MAC"
    )
    assert parsed(plan, plan.node("rs1"))["network-config"]["config"][0]["mac_address"] == mac


@pytest.mark.parametrize("name", ["no", "on", "null", "1e3", "1-1", "y"])
def test_a_name_stays_text_even_where_it_looks_like_something_else(name: str) -> None:
    plan = plan_of(BASE.replace("rs1", f"'{name}'"))
    assert parsed(plan, plan.node(name))["meta-data"]["local-hostname"] == name


def test_the_disk_is_an_iso_that_linux_and_cloud_init_read() -> None:
    plan = plan_of()
    contents = seed.files(plan, plan.node("rs1"), keys_of(plan))
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(seed.iso(contents)))
    try:
        assert image.pvd.volume_identifier.rstrip() == b"cidata"
        assert image.has_rock_ridge()
        assert image.has_joliet()
        for name, text in contents.items():
            for path in ({"rr_path": f"/{name}"}, {"joliet_path": f"/{name}"}):
                out = io.BytesIO()
                image.get_file_from_iso_fp(out, **path)
                assert out.getvalue().decode() == text
    finally:
        image.close()
