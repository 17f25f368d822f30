"""What labctl makes of every shipped topology on every guest: all files of two labs, the steps of all."""

from functools import cache
from pathlib import Path
from uuid import UUID

import pytest

from labctl.base.resources import TOPOLOGIES
from labctl.cli import display
from labctl.language import topology
from labctl.plan import access, domain, guests, plan, seed
from labctl.plan.seed import KeyPair, Keys

EXPECTED = Path(__file__).parent / "expected"
SHIPPED = {path.stem: path for path in sorted(TOPOLOGIES.glob("*.yaml"))}
INSTANCE = UUID("00000000-0000-4000-8000-000000000001")
FULL = ("lvs-dr", "lvs-dr-keepalived")
CASES = [(name, guest) for name, path in SHIPPED.items() for guest in guests.names()
         if not guests.load(guest).lacks.keys() & {service.type for service in topology.parse(
             path.read_text(), name).services.values()}]


@cache
def rendered(name: str, guest: str) -> dict[str, str]:
    """A lab's files, by their path below expected/TOPOLOGY/GUEST."""
    lab = plan.make(topology.parse(SHIPPED[name].read_text(), name), name, guests.load(guest))
    lines: list[str] = []
    display.sheet(lab, lab.nodes, lines.append)
    steps = {"steps.md": "\n".join([*lines, ""])}
    return steps | _files(lab) if name in FULL else steps


def _files(lab: plan.Plan) -> dict[str, str]:
    keys = Keys(
        login=KeyPair("LOGIN-PRIVATE-KEY\n", "LOGIN-PUBLIC-KEY\n"),
        hosts={node.name: KeyPair(f"HOST-PRIVATE-KEY {node.name}\n", f"HOST-PUBLIC-KEY {node.name}\n")
               for node in lab.nodes},
    )
    home = Path("/labs") / lab.lab
    files = {
        "known_hosts": access.known_hosts(lab, keys),
        "ssh_config": access.ssh_config(
            lab, home / "id", home / "known_hosts", Path("/run/labctl"), "PROXY %h %p"
        ),
    }
    for network in lab.networks:
        files[f"networks/{network.name}.xml"] = domain.network_xml(lab, INSTANCE, network, own_bridge=True)
    direct = lab.guest.boot == "direct"
    for node in lab.nodes:
        disks = domain.Disks(
            overlay=home / f"{node.name}.qcow2",
            seed=home / f"{node.name}.iso",
            console=home / f"{node.name}.log",
            kernel=Path("/image/vmlinuz") if direct else None,
            initrd=Path("/image/initrd.img") if direct else None,
            serial=Path(f"/run/labctl/{node.interfaces[0].address}.serial"),
        )
        files[f"nodes/{node.name}/domain.xml"] = domain.domain_xml(lab, INSTANCE, node, disks, "tcg")
        for file, text in seed.files(lab, node, keys).items():
            files[f"nodes/{node.name}/{file}"] = text
    return files


def on_disk() -> set[str]:
    """The expected files, by their path below expected."""
    return {str(path.relative_to(EXPECTED)) for path in EXPECTED.rglob("*") if path.is_file()}


MADE = {
    f"{name}/{guest}/{file}": (name, guest, file) for name, guest in CASES for file in rendered(name, guest)
}


@pytest.mark.parametrize("path", MADE)
def test_file_is_as_expected(path: str, regenerate: bool) -> None:
    name, guest, file = MADE[path]
    made = rendered(name, guest)[file]
    expected = EXPECTED / path
    if regenerate:
        expected.parent.mkdir(parents=True, exist_ok=True)
        expected.write_text(made)
    assert expected.is_file(), "there is no expected file; --regenerate writes it"
    assert made == expected.read_text()


def test_no_file_is_expected_that_is_made_no_more(regenerate: bool) -> None:
    leftover = sorted(on_disk() - MADE.keys())
    if regenerate:
        for path in leftover:
            (EXPECTED / path).unlink()
        leftover = []
    assert leftover == []


def test_every_topology_is_expected_on_every_guest_that_can_run_it() -> None:
    assert CASES
    assert {tuple(path.split("/")[:2]) for path in MADE} == set(CASES)
