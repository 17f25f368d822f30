"""How to reach the nodes by SSH: ssh_config and known_hosts. Pure."""

from pathlib import Path

from labctl.base.errors import LabError
from labctl.plan.plan import Plan, PlannedNode
from labctl.plan.seed import Keys


def known_hosts(plan: Plan, keys: Keys) -> str:
    """The known_hosts file: labctl makes the nodes' host keys itself, so host key checking can stay on."""
    return "".join(f"{node.name} {keys.hosts[node.name].public.strip()}\n" for node in plan.nodes)


def shared_connection(plan: Plan, node: PlannedNode, control: Path) -> Path:
    """The socket of a node's shared connection, in the directory `control`."""
    return control / str(plan.access_address(node))


def ssh_config(plan: Plan, identity: Path, hosts_file: Path, control: Path, proxy: str | None) -> str:
    """An ssh_config with a Host per node.

    `control` is the directory of the shared connections' sockets, named after the nodes' addresses to keep their
    paths short. Connections are shared, with a fast key exchange, because handshakes are slow under TCG.
    `proxy` is the command that carries a connection into the room, with %h and %p; None if the nodes' addresses can be
    reached directly. Raises LabError for a path that ssh_config cannot express.
    """
    for path in (identity, hosts_file, control):
        if "\n" in str(path) or "${" in str(path):
            raise LabError(f"The path '{path}' cannot be written in ssh's configuration.",
                           hint="XDG_STATE_HOME and XDG_RUNTIME_DIR choose another one.")
    lines = []
    for node in plan.nodes:
        lines += [f"Host {node.name}", f"  HostName {plan.access_address(node)}", f"  HostKeyAlias {node.name}", ""]
    lines += [
        f"Host {' '.join(node.name for node in plan.nodes)}",
        "  User root",
        f'  IdentityFile {_quoted(identity)}',
        "  IdentitiesOnly yes",
        f'  UserKnownHostsFile {_quoted(hosts_file)}',
        "  GlobalKnownHostsFile /dev/null",
        "  StrictHostKeyChecking yes",
        "  PasswordAuthentication no",
        "  GSSAPIAuthentication no",
        "  KexAlgorithms curve25519-sha256",
        "  LogLevel ERROR",
        "  ConnectTimeout 10",
        "  ServerAliveInterval 5",
        "  ServerAliveCountMax 6",
        "  ControlMaster auto",
        f'  ControlPath {_quoted(control, "/%h")}',
        "  ControlPersist 10m",
    ]
    if proxy:
        lines.append(f"  ProxyCommand {proxy}")
    return "\n".join(lines) + "\n"


def _quoted(path: Path, rest: str = "") -> str:
    """A path in the syntax of ssh_config(5): quotes and backslashes are escaped, and % is doubled."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}{rest}"'
