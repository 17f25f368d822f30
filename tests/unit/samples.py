"""What the unit tests work on: small topologies, the shipped ones, placeholder keys."""

import re
from typing import Any
from uuid import uuid4

from labctl.base.errors import InputError, Problem
from labctl.base.resources import TOPOLOGIES
from labctl.labs.lab import Lab
from labctl.labs.record import Record, save_plan
from labctl.language import topology
from labctl.language.services import Placement
from labctl.machines import sockets
from labctl.plan import guests
from labctl.plan.plan import Plan, make
from labctl.plan.seed import KeyPair, Keys
from labctl.plan.steps import Step

TIMING = guests.load("debian-12").keepalived
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

# The lines are those of BASE.
NAT = """\
title: Between two networks
networks:
  lan: { subnet: 10.10.10.0/24, host: 10.10.10.1 }
  outer: { subnet: 20.20.20.0/24, host: 20.20.20.1 }
nodes:
  lvs: { lan: 10.10.10.11, outer: 20.20.20.11 }
  rs1: { lan: 10.10.10.12 }
  rs2: { lan: 10.10.10.13 }
  out: { lan: 10.10.10.14, outer: 20.20.20.14 }
  client: { outer: 20.20.20.50 }
services:
  apache: { type: httpd, nodes: [rs1, rs2] }
  web:
    type: ipvs
    vip: 20.20.20.100
    port: 80
    forward: nat
    scheduler: rr
    directors: { ipvsadm: [lvs] }
    real_servers: { rs1: 1, rs2: 2 }
"""

NAT_KEEPALIVED = NAT.replace("ipvsadm: [lvs]", "keepalived: [lvs, out]") + "    gateway: 10.10.10.100\n"

TUN = """\
title: Behind a router
networks:
  lan: { subnet: 10.10.10.0/24, host: 10.10.10.1 }
  far: { subnet: 20.20.20.0/24, host: 20.20.20.1 }
nodes:
  lvs: { lan: 10.10.10.11 }
  gate: { lan: 10.10.10.254, far: 20.20.20.254 }
  rs1: { far: 20.20.20.12 }
  rs2: { far: 20.20.20.13 }
  client: { lan: 10.10.10.50 }
services:
  apache: { type: httpd, nodes: [rs1, rs2] }
  way: { type: router, node: gate }
  web:
    type: ipvs
    vip: 10.10.10.100
    port: 80
    forward: tun
    scheduler: rr
    directors: { ipvsadm: [lvs] }
    real_servers: { rs1: 1, rs2: 2 }
"""

HAPROXY = """\
title: Proxies
networks:
  lan: { subnet: 10.10.10.0/24, host: 10.10.10.1 }
  far: { subnet: 10.10.20.0/24, host: 10.10.20.1 }
nodes:
  lb1: { lan: 10.10.10.11 }
  lb2: { lan: 10.10.10.14 }
  rs1: { lan: 10.10.10.12 }
  rs2: { lan: 10.10.10.13 }
  client: { lan: 10.10.10.50 }
services:
  apache: { type: httpd, nodes: [rs1, rs2] }
  proxy: { type: haproxy, nodes: [lb1, lb2], servers: { rs1: 2, rs2: 1 } }
"""

VRRP = HAPROXY + "  float: { type: vrrp, vip: 10.10.10.100, nodes: [lb1, lb2] }\n"


def second_ipvs(text: str, name: str = "shop", vip: str = "10.10.10.101", **values: str) -> str:
    """The same topology with its last service once more, under another name and VIP, and with other values."""
    service = text[text.index("  web:"):].replace("web:", f"{name}:")
    for key, value in {"vip": vip, **values}.items():
        service, count = re.subn(rf"^    {key}: .*", f"    {key}: {value}", service, flags=re.MULTILINE)
        assert count == 1, f"{key!r} is {count} times in the sample's service"
    return text + service


def option(line: str, text: str = BASE) -> str:
    """The topology with one more line in its last service."""
    return f"{text}    {line}\n"


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


def told(text: str) -> list[tuple[int, str]]:
    """The same as pairs of line and message."""
    return [(problem.line, problem.message) for problem in problems(text)]


def service_of(text: str, name: str = "web") -> Any:
    """A service of a topology."""
    return topology.parse(text, "lab.yaml").services[name]


def placed(text: str, service: str = "web") -> list[Placement]:
    """The steps that a service puts on nodes, in order."""
    parsed = topology.parse(text, "lab.yaml")
    return list(parsed.services[service].placements(parsed, service, parsed.services))


def values_of(text: str, node: str, kind: str, service: str = "web") -> dict[str, Any]:
    """The values of the one step of this kind that a service puts on a node."""
    (values,) = [placement.values for placement in placed(text, service)
                 if (placement.node, placement.step) == (node, kind)]
    return dict(values)


def step_of(text: str, node: str, kind: str, service: str = "web", guest: str = "debian-12") -> Step:
    """The same step, rendered."""
    (step,) = [step for step in plan_of(text, guest=guest).node(node).steps
               if (step.kind, step.service) == (kind, service)]
    return step


def plan_of(text: str = BASE, lab: str = "lab", guest: str = "debian-12") -> Plan:
    """The plan of a topology."""
    return make(topology.parse(text, "lab.yaml"), lab, guests.load(guest))


def lab_of(plan: Plan, **changes: Any) -> Lab:
    """A lab with a plan, of which nothing is there."""
    instance = uuid4()
    return Lab(Record(id=instance, name=plan.lab, sockets=sockets.place(instance), libvirt_uri=None, accel="kvm",
                      image="sha", ready=True).model_copy(update=changes), plan)


def recorded(plan: Plan, **changes: Any) -> Lab:
    """A lab that is up as far as its record says."""
    made = lab_of(plan, **changes)
    made.directory.mkdir(parents=True)
    made.save()
    save_plan(plan.lab, plan)
    return made


def runs_on(text: str, guest: str) -> bool:
    """Whether a guest has all that a topology's services need."""
    services = topology.parse(text, "lab.yaml").services.values()
    return not any(service.type in guests.load(guest).lacks for service in services)


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
