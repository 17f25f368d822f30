"""NoCloud seeds: a node's meta-data, user-data and network-config, and the disk that holds them. Pure."""

import io
from dataclasses import dataclass
from typing import Any

import pycdlib
import yaml

from labctl.plan.plan import Plan, PlannedNode
from labctl.plan.steps import MARKERS

CONFIGURED = "/var/lib/labctl/configured"
"""The guest's file that the last command of the first boot writes; contains the plan's digest."""
_NO_MORE = "/etc/cloud/cloud-init.disabled"


@dataclass(frozen=True)
class KeyPair:
    """An OpenSSH key pair, as the text of its two files."""

    private: str
    public: str


@dataclass(frozen=True)
class Keys:
    """The keys of one lab: one to log in with, and one host key per node."""

    login: KeyPair
    hosts: dict[str, KeyPair]


def files(plan: Plan, node: PlannedNode, keys: Keys) -> dict[str, str]:
    """The seed's files by name."""
    return {
        "meta-data": _yaml({"instance-id": f"{plan.lab}.{node.name}", "local-hostname": node.name}),
        "user-data": "#cloud-config\n" + _yaml(_user_data(plan, node, keys)),
        "network-config": _yaml(_network_config(node)),
    }


def iso(contents: dict[str, str]) -> bytes:
    """The ISO 9660 image, labelled `cidata`, on which cloud-init looks for a seed."""
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for name, text in contents.items():
        data = text.encode()
        iso_name = name.upper().replace("-", "_")
        image.add_fp(io.BytesIO(data), len(data), f"/{iso_name}.;1", rr_name=name, joliet_path=f"/{name}")
    buffer = io.BytesIO()
    image.write_fp(buffer)
    image.close()
    return buffer.getvalue()


def _user_data(plan: Plan, node: PlannedNode, keys: Keys) -> dict[str, Any]:
    host_key = keys.hosts[node.name]
    return {
        "preserve_hostname": False,
        "users": [],
        "disable_root": False,
        "ssh_pwauth": False,
        "ssh_authorized_keys": [keys.login.public.strip()],
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": host_key.private, "ed25519_public": host_key.public.strip()},
        "write_files": [
            {"path": file.path, "permissions": file.permissions, "content": file.content}
            for step in node.steps for file in step.write_files
        ],
        "runcmd": _commands(plan, node),
    }


def _commands(plan: Plan, node: PlannedNode) -> list[str]:
    """All steps as one script, which stops at the first failure and names the step on the console.

    Given separate commands, cloud-init would go on after a failure and report only the last one.
    """
    commands = [
        "set -e",
        # A reload costs seconds under TCG. It is not needed: systemd reads new units by itself, and all units are new.
        "systemctl() { command systemctl --no-reload \"$@\"; }",
        f"mkdir -p {MARKERS}",
        f"""trap 'test $? = 0 || echo "labctl: the step {node.name}/$step failed" >/dev/console' EXIT""",
    ]
    for step in node.steps:
        commands += [f"step={step.name}", *step.runcmd, f"touch {step.marker}"]
    # cloud-init has done its work; at later boots it would start three times to find nothing to do. The sync makes a
    # node that is recorded as configured survive a crash: without it, files can be empty on disk for half a minute.
    return [*commands, f"touch {_NO_MORE}", f"echo {plan.digest} >{CONFIGURED}", "sync"]


def _network_config(node: PlannedNode) -> dict[str, Any]:
    # cloud-init 19.4 on EL7 renders only this correctly: version 1, static addresses, lower-case MACs.
    return {
        "version": 1,
        "config": [
            {
                "type": "physical",
                "name": interface.name,
                "mac_address": interface.mac,
                "subnets": [{"type": "static", "address": f"{interface.address}/{interface.prefix}"}],
            }
            for interface in node.interfaces
        ],
    }


class _Dumper(yaml.SafeDumper):
    """Literal blocks for text of several lines, as a person would write them."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
