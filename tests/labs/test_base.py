"""What every node has."""

import re

from labctl.observe.observer import Observer
from labctl.observe.verdict import fail
from labctl.plan.plan import Plan
from labctl.plan.probe import SOURCES

_UNUSED_PORT = 9


def test_names_resolve(node: str, plan: Plan, observer: Observer) -> None:
    """every machine's name resolves to its address"""
    expected = {other.name: str(other.interfaces[0].address) for other in plan.nodes if other.name != node}
    output = observer.host(node).run("getent hosts " + " ".join(expected)).stdout
    found = {words[1]: words[0] for words in map(str.split, output.splitlines()) if len(words) > 1}
    wrong = sorted(name for name in expected if found.get(name) != expected[name])
    if wrong:
        observer.blame(f"On '{node}' these names do not resolve as they should: {', '.join(wrong)}.",
                       (node, "base/hosts"))


def test_addresses(node: str, plan: Plan, observer: Observer) -> None:
    """each network interface has its static address"""
    output = observer.host(node).run("ip -o -4 address show").stdout
    found = set(re.findall(r"^\d+: (\S+)\s+inet (\S+) ", output, re.MULTILINE))
    for interface in plan.node(node).interfaces:
        if (interface.name, f"{interface.address}/{interface.prefix}") not in found:
            fail(f"On '{node}' the interface {interface.name} does not have the address {interface.address}.")


def test_no_firewall(neighboured: str, observer: Observer) -> None:
    """no firewall drops packets: a closed port refuses connections"""
    asker = observer.neighbour(neighboured)
    address = observer.own_address(asker, neighboured)
    # With bash, since nc's options differ between guests (CentOS 7 began without -z).
    said = observer.says(asker, f"timeout 8 bash -c ': </dev/tcp/{address}/{_UNUSED_PORT}' 2>&1")
    if "refused" not in said:
        fail(f"'{neighboured}' does not refuse a connection to its closed port {_UNUSED_PORT}, as it would without a "
                    f"firewall: {said or 'no answer'}.")


def test_package_source(node: str, plan: Plan, observer: Observer) -> None:
    """the local repository is the only package source, and it is mounted"""
    command, only = SOURCES[plan.guest.family]
    said = observer.says(node, f"{command}; mountpoint -q /mnt/cdrom && echo and mounted").split()
    if said != f"{only} and mounted".split():
        observer.blame(f"On '{node}' the disk at /mnt/cdrom is not the package source, or not the only one.",
                       (node, "base/packages"))


def test_packages(plan: Plan, observer: Observer) -> None:
    """a package is found in the local repository, without waiting for a network"""
    # On one machine only, since this keeps a processor busy for seconds; the check above covers the others.
    node = next(iter([*plan.clients(), *plan.nodes])).name
    if observer.host(node).run(f"timeout 60 sh -c '{plan.guest.facts['find_package']}'").rc:
        observer.blame(f"'{node}' does not find the package 'lrzsz'.", (node, "base/packages"))
