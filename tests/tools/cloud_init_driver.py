"""Runs cloud-init's own code: seeds come in as JSON, and what cloud-init makes of them goes out.

A process of its own, because cloud-init's modules are not made for being imported by others.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from cloudinit.config import schema
from cloudinit.distros import debian, rhel
from cloudinit.net import eni, network_state, sysconfig

SCHEMA = schema.get_schema()


def complaints(user_data: str) -> list[str]:
    """What the schema says about a cloud-config."""
    try:
        schema.validate_cloudconfig_schema(yaml.safe_load(user_data), SCHEMA, strict=True)
    except schema.SchemaValidationError as error:
        return str(error).splitlines()
    return []


def network_files(network_config: str, family: str) -> dict[str, str]:
    """The files that are rendered of a network-config, by path."""
    state = network_state.parse_net_config_data(yaml.safe_load(network_config), skip_broken=False)
    renderer = (sysconfig.Renderer(rhel.Distro.renderer_configs["sysconfig"]) if family == "redhat"
                else eni.Renderer(debian.Distro.renderer_configs["eni"]))
    with tempfile.TemporaryDirectory() as target:
        renderer.render_network_state(state, target=target)
        return {f"/{path.relative_to(target)}": path.read_text() for path in Path(target).rglob("*") if path.is_file()}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """The complaints about each user-data, and the files of each pair of network-config and family."""
    return {
        "complaints": [complaints(text) for text in asked["user-data"]],
        "files": [network_files(text, family) for text, family in asked["network-config"]],
        "keys": sorted({key for part in SCHEMA["$defs"].values() for key in part.get("properties", {})}),
    }


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
