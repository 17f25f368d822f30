"""What labctl renders for every shipped topology, and a few changed ones, on every guest that can run them."""

import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from labctl.base.resources import TOPOLOGIES
from labctl.language import topology
from labctl.plan import guests, plan, seed
from labctl.plan.plan import Plan, PlannedNode
from labctl.plan.seed import KeyPair, Keys

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / ".venv" / "programs"
"""Where `scripts/setup --dev` unpacks the programs that are not installed."""


MORE = [("lvs-nat-keepalived", "course", [
    'services.web.vrrp={router_id: 66, priorities: [80, 30], advert: 2, auth: "1111", unicast: true, nopreempt: true}',
    "services.web.persistence={per: client}"])]
"""What no shipped topology says: a topology, a lab's name, and changes."""


@cache
def labs() -> list[Plan]:
    """The plans."""
    texts = [*((path.stem, path.stem, []) for path in sorted(TOPOLOGIES.glob("*.yaml"))), *MORE]
    return [plan.make(parsed, name, guest)
            for stem, name, changes in texts
            for parsed in [topology.parse((TOPOLOGIES / f"{stem}.yaml").read_text(), stem, changes)]
            for guest in map(guests.load, guests.names())
            if not guest.lacks.keys() & {service.type for service in parsed.services.values()}]


def nodes() -> Iterator[tuple[Plan, PlannedNode]]:
    """All nodes of all labs."""
    return ((lab, node) for lab in labs() for node in lab.nodes)


def title(lab: Plan, node: PlannedNode) -> str:
    """How messages call a node."""
    return f"{lab.lab}/{lab.guest.name}/{node.name}"


@cache
def seeds() -> dict[str, dict[str, str]]:
    """Each node's seed: the texts of its files."""
    found = {}
    for lab, node in nodes():
        hosts = {node.name: KeyPair(f"HOST-PRIVATE-KEY {node.name}\n", f"ssh-ed25519 HOST-PUBLIC-KEY-{node.name}\n")}
        login = KeyPair("LOGIN-PRIVATE-KEY\n", "ssh-ed25519 LOGIN-PUBLIC-KEY\n")
        found[title(lab, node)] = seed.files(lab, node, Keys(login, hosts))
    return found


def unpacked(path: str) -> Path:
    """A file or directory of a package that is unpacked and not installed; fails the test if it is not there."""
    found = PROGRAMS / path
    if not found.exists():
        pytest.fail(f"There is no {found}; 'scripts/setup --dev' unpacks it.")
    return found


def unshare(*namespaces: str) -> list[str]:
    """The beginning of a command that runs as root in namespaces of its own, whoever starts it."""
    return ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), *namespaces]


def environment() -> dict[str, str]:
    """Variables with which unpacked programs find the libraries that came with them."""
    libraries = [str(path) for directory in ("usr/lib", "lib") for path in PROGRAMS.glob(f"{directory}/*-linux-gnu*")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}


def complaints(command: list[str | Path], interfaces: tuple[str, ...] = ()) -> list[str]:
    """The lines that an unpacked program says about a file that it is asked to check, and its exit code if it is not 0.

    It runs in a network of its own, where the ports are free for everybody, with interfaces of these names.
    """
    add = [f"ip link add {name} type bridge" for name in interfaces]
    done = subprocess.run([*unshare("-n"), "sh", "-e", "-c", "\n".join([*add, 'exec "$@"']), "sh", *command],
                          env=environment(), capture_output=True, text=True, check=False)
    code = [f"exit code {done.returncode}"] if done.returncode else []
    return (done.stdout + done.stderr).splitlines() + code
