"""The seeds, read by cloud-init itself. It is Debian's; what 19.4 on CentOS 7 has not is looked for by name."""

import ipaddress
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import rendered
import yaml

from labctl.plan.plan import Interface, PlannedNode

IGNORED = {"ntp", "ca_certs", "ca-certs", "random_seed", "seed_random", "ssh_import_id"}
"""What 19.4 on CentOS 7 passes over without a word."""

# Valid in later versions, as it was in earlier ones: github.com/canonical/cloud-init/issues/4055. 22.4 mentions it in
# its log, and makes no user, as it should.
KNOWN = ["Cloud config schema errors: users: [] should be non-empty"]

SYSCONFIG = "/etc/sysconfig/network-scripts"


def ask_cloud_init(user_data: list[str], network_config: list[tuple[str, str]]) -> dict[str, Any]:
    """What cloud-init makes of seeds; see the driver."""
    done = subprocess.run(
        # Its warnings are of interest to its developers.
        [sys.executable, "-B", "-W", "ignore", Path(__file__).with_name("cloud_init_driver.py")],
        env={**os.environ, "PYTHONPATH": str(rendered.unpacked("usr/lib/python3/dist-packages"))},
        input=json.dumps({"user-data": user_data, "network-config": network_config}),
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    """What cloud-init makes of the seeds of all nodes, in their order."""
    seeds = rendered.seeds()
    families = [lab.guest.family for lab, _ in rendered.nodes()]
    return ask_cloud_init([files["user-data"] for files in seeds.values()],
                          [(files["network-config"], family)
                           for files, family in zip(seeds.values(), families, strict=True)])


@cache
def user_data() -> dict[str, dict[str, Any]]:
    """The user-data of all nodes."""
    return {title: yaml.safe_load(files["user-data"]) for title, files in rendered.seeds().items()}


def files_by_node(answer: dict[str, Any], family: str) -> list[tuple[str, PlannedNode, dict[str, str]]]:
    """The title, the node and its network files, for the guests of a family."""
    return [(rendered.title(lab, node), node, files)
            for (lab, node), files in zip(rendered.nodes(), answer["files"], strict=True) if lab.guest.family == family]


def variables(text: str) -> dict[str, str]:
    """The variables of a file that a shell would source, as CentOS's network scripts do."""
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    assert all(len(words) <= 1 for words in lines), text
    return dict(words[0].split("=", 1) for words in lines if words)


def ifcfg(interface: Interface) -> dict[str, str]:
    """What an interface's ifcfg file has to say."""
    network = ipaddress.IPv4Network(f"{interface.address}/{interface.prefix}", strict=False)
    return {"DEVICE": interface.name, "HWADDR": interface.mac, "ONBOOT": "yes",
            "IPADDR": str(interface.address), "NETMASK": str(network.netmask)}


def test_user_data_is_valid(answer: dict[str, Any]) -> None:
    said = dict(zip(rendered.seeds(), answer["complaints"], strict=True))
    assert said
    assert {title: words for title, words in said.items() if words not in ([], KNOWN)} == {}


def test_user_data_is_marked_as_a_cloud_config() -> None:
    assert {files["user-data"].splitlines()[0] for files in rendered.seeds().values()} == {"#cloud-config"}


def test_user_data_has_only_keys_that_cloud_init_knows(answer: dict[str, Any]) -> None:
    # The schema allows others, so a key that is spelt wrong would do nothing.
    assert set().union(*user_data().values()) - set(answer["keys"]) == set()


def test_user_data_has_nothing_that_19_4_ignores() -> None:
    assert set().union(*user_data().values()) & IGNORED == set()


def test_files_are_written_at_once_and_as_root() -> None:
    # 19.4 does not know `defer`, and writes files before it makes users, so `owner` could name none.
    keys = {key for data in user_data().values() for file in data["write_files"] for key in file}
    assert keys == {"path", "permissions", "content"}


def test_network_config_is_of_version_1_with_macs_in_lower_case() -> None:
    for title, files in rendered.seeds().items():
        config = yaml.safe_load(files["network-config"])
        assert config["version"] == 1, title
        for interface in config["config"]:
            assert interface["type"] == "physical", title
            assert re.fullmatch("([0-9a-f]{2}:){5}[0-9a-f]{2}", interface["mac_address"]), title


def test_sysconfig_has_the_planned_addresses_and_nothing_else(answer: dict[str, Any]) -> None:
    nodes = files_by_node(answer, "redhat")
    assert nodes
    for title, node, files in nodes:
        assert {path for path in files if path.startswith(SYSCONFIG)} == {
            f"{SYSCONFIG}/ifcfg-{interface.name}" for interface in node.interfaces}, title
        for interface in node.interfaces:
            found = variables(files[f"{SYSCONFIG}/ifcfg-{interface.name}"])
            assert found.pop("BOOTPROTO") in ("none", "static"), title
            assert ifcfg(interface).items() <= found.items(), title
            # No second address, no DHCP, and no gateway: default routes are set by steps.
            assert found.keys() - ifcfg(interface).keys() <= {
                "TYPE", "USERCTL", "NM_CONTROLLED", "AUTOCONNECT_PRIORITY"}, title


def test_sysconfig_has_no_gateway_for_all(answer: dict[str, Any]) -> None:
    for title, _, files in files_by_node(answer, "redhat"):
        assert variables(files["/etc/sysconfig/network"]) == {"NETWORKING": "yes"}, title


def test_debian_has_the_planned_addresses_and_nothing_else(answer: dict[str, Any]) -> None:
    nodes = files_by_node(answer, "debian")
    assert nodes
    for title, node, files in nodes:
        (text,) = [text for path, text in files.items() if path.startswith("/etc/network/interfaces")]
        lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
        expected = [["auto", "lo"], ["iface", "lo", "inet", "loopback"]]
        for interface in node.interfaces:
            expected += [["auto", interface.name], ["iface", interface.name, "inet", "static"],
                         ["address", f"{interface.address}/{interface.prefix}"]]
        assert lines == expected, title


def test_the_schema_refuses_what_is_wrong() -> None:
    ((complaint,),) = ask_cloud_init(["runcmd: 3\n"], [])["complaints"]
    assert complaint == "Cloud config schema errors: runcmd: 3 is not of type 'array'"


def test_the_renderer_shows_what_is_not_planned() -> None:
    config = {"version": 1, "config": [{"type": "physical", "name": "eth0", "subnets": [{"type": "dhcp"}]}]}
    (files,) = ask_cloud_init([], [(yaml.safe_dump(config), "redhat")])["files"]
    assert variables(files[f"{SYSCONFIG}/ifcfg-eth0"])["BOOTPROTO"] == "dhcp"
