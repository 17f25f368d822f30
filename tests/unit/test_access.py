"""labctl.plan.access: how ssh finds and trusts the nodes."""

from pathlib import Path

import pytest
from samples import keys_of, plan_of

from labctl.base.errors import LabError
from labctl.plan import access


def config(proxy: str | None) -> str:
    return access.ssh_config(plan_of(), Path("/l a b/id"), Path("/l a b/known"), Path("/run/s"), proxy)


def hosts(text: str) -> dict[str, dict[str, str]]:
    """Host patterns and their settings."""
    found: dict[str, dict[str, str]] = {}
    here: dict[str, str] = {}
    for line in filter(None, text.splitlines()):
        key, _, value = line.strip().partition(" ")
        if key == "Host":
            assert value not in found
            here = found.setdefault(value, {})
        else:
            assert key not in here
            here[key] = value
    return found


def test_every_node_has_a_host_of_its_own() -> None:
    found = hosts(config(None))
    plan = plan_of()
    for node in plan.nodes:
        assert found[node.name] == {"HostName": str(plan.access_address(node)), "HostKeyAlias": node.name}
    assert len(found) == len(plan.nodes) + 1


def test_host_keys_are_checked_against_the_labs_own_file() -> None:
    common = hosts(config(None))["lvs rs1 rs2 out client"]
    assert common["StrictHostKeyChecking"] == "yes"
    assert common["UserKnownHostsFile"] == '"/l a b/known"'
    assert common["GlobalKnownHostsFile"] == "/dev/null"
    assert common["IdentityFile"] == '"/l a b/id"'
    assert common["IdentitiesOnly"] == "yes"
    assert common["PasswordAuthentication"] == "no"
    assert common["ControlPath"] == '"/run/s/%h"'


def test_paths_are_written_as_ssh_reads_them() -> None:
    """A % begins a token, and within quotes only a quote and a backslash are special."""
    text = access.ssh_config(plan_of(), Path('/a b/5%"\\ü&#;/id'), Path("/%h/known"), Path("/%%/run"), None)
    common = hosts(text)["lvs rs1 rs2 out client"]
    assert common["IdentityFile"] == r'"/a b/5%%\"\\ü&#;/id"'
    assert common["UserKnownHostsFile"] == '"/%%h/known"'
    assert common["ControlPath"] == '"/%%%%/run/%h"'


@pytest.mark.parametrize("path", ["/a\nb", "/a${HOME}b"])
def test_a_path_that_ssh_cannot_be_told_is_refused(path: str) -> None:
    with pytest.raises(LabError, match="cannot be written in ssh's configuration"):
        access.ssh_config(plan_of(), Path("/id"), Path("/known"), Path(path), None)


def test_the_socket_of_a_shared_connection_is_where_the_configuration_has_it() -> None:
    plan = plan_of()
    node = plan.nodes[0]
    assert access.shared_connection(plan, node, Path("/run/s")) == Path(f"/run/s/{plan.access_address(node)}")


def test_a_room_is_entered_by_a_proxy_and_other_labs_need_none() -> None:
    assert hosts(config("nsenter nc %h %p"))["lvs rs1 rs2 out client"]["ProxyCommand"] == "nsenter nc %h %p"
    assert "ProxyCommand" not in config(None)


def test_known_hosts_has_a_line_per_node() -> None:
    plan = plan_of()
    assert access.known_hosts(plan, keys_of(plan)).splitlines() == [
        f"{node.name} ssh-ed25519 HOST-PUBLIC-KEY-{node.name}" for node in plan.nodes]
