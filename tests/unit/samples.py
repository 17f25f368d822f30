"""What the unit tests work on: a small topology, the shipped ones, placeholder keys."""

from labctl import guests, topology
from labctl.errors import InputError, Problem
from labctl.plan import Plan, make
from labctl.resources import TOPOLOGIES
from labctl.seed import KeyPair, Keys

SHIPPED = sorted(TOPOLOGIES.glob("*.yaml"))
GUESTS = guests.names()

# Line numbers matter to the tests: add at the end.
BASE = """\
title: Test bed
networks:
  lan: { subnet: 10.10.10.0/24, host: 10.10.10.1 }
  far: { subnet: 10.10.20.0/24 }
nodes:
  lvs: { lan: 10.10.10.11, far: 10.10.20.11 }
  rs1: { lan: 10.10.10.12 }
  rs2: { lan: 10.10.10.13 }
  out: { lan: 10.10.10.14, far: 10.10.20.14 }
  client: { lan: 10.10.10.50 }
services:
  apache: { type: httpd, nodes: [rs1, rs2] }
  web:
    type: ipvs
    vip: 10.10.10.100
    port: 80
    forward: dr
    scheduler: rr
    directors: { ipvsadm: [lvs] }
    real_servers: { rs1: 1, rs2: 2 }
"""

KEEPALIVED = BASE.replace("ipvsadm: [lvs]", "keepalived: [lvs, out]")


def second_ipvs(text: str, name: str = "shop", vip: str = "10.10.10.101") -> str:
    """The same topology with its ipvs service once more, under another name and VIP."""
    service = text[text.index("  web:"):]
    return text + service.replace("web:", f"{name}:").replace("10.10.10.100", vip)


def changed(old: str, new: str, text: str = BASE) -> str:
    """The topology with one thing changed; the thing has to be there once."""
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the sample"
    return text.replace(old, new)


def problems(text: str) -> list[Problem]:
    """Everything wrong with a topology."""
    try:
        topology.parse(text, "lab.yaml")
    except InputError as error:
        return error.problems
    return []


def plan_of(text: str = BASE, lab: str = "lab", guest: str = "debian-12") -> Plan:
    """The plan of a topology."""
    return make(topology.parse(text, "lab.yaml"), lab, guests.load(guest))


def keys_of(plan: Plan) -> Keys:
    """Texts in the place of a lab's keys."""
    return Keys(
        login=KeyPair("LOGIN-PRIVATE-KEY\n", "ssh-ed25519 LOGIN-PUBLIC-KEY\n"),
        hosts={
            node.name: KeyPair(
                f"HOST-PRIVATE-KEY {node.name}\n", f"ssh-ed25519 HOST-PUBLIC-KEY-{node.name}\n"
            )
            for node in plan.nodes
        },
    )
