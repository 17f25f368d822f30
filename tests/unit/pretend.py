"""Labs that only seem to be there."""

import re
import subprocess
import time
from ipaddress import IPv4Address
from types import SimpleNamespace

import pytest
from samples import BASE, plan_of, recorded

from labctl.base.errors import Unreachable
from labctl.labs import lab
from labctl.labs.readiness import BOOT_ID
from labctl.labs.ssh import Ssh
from labctl.machines.private_room import PrivateRoom
from labctl.plan.plan import Plan, PlannedNode


class Nodes:
    """Nodes in the place of a lab's: they answer scripts at once, and keep the steps' markers."""

    def __init__(self, plan: Plan) -> None:
        self.steps = {node.name: {step.name for step in node.steps} for node in plan.nodes}
        self.states = {node.name: "running" for node in plan.nodes}
        self.page, self.after_boot = "HTTP/1.1 200 OK", "running"
        self.silent: set[str] = set()
        self.hanging: set[str] = set()
        self.stubborn: set[str] = set()
        """Those that do not go down when they are told to."""
        self.done: list[str] = []
        self.boots = dict.fromkeys(self.states, 1)
        self._digest = plan.digest
        self._addresses = {plan.access_address(node): node.name for node in plan.nodes}

    def run(self, node: str, script: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Take the place of Ssh.run."""
        assert timeout > 0
        if node in self.silent:
            raise Unreachable(f"The node '{node}' cannot be reached.")
        if script == "systemctl reboot":
            self.boots[node] += 1
            raise Unreachable("Connection closed.")
        if script == "systemctl poweroff":
            if node not in self.stubborn:
                del self.states[node]
            raise Unreachable("Connection closed.")
        answers = {"ls ": "\n".join(self.steps[node]), BOOT_ID: f"boot {self.boots[node]}\n",
                   "date +%s": str(time.time()), "timeout 5 bash -c": self.page,
                   "i=0; while": f'{{"v1": {{"errors": []}}}}\n{self._digest}\n',
                   "ip -o -4 address show": "eth0", "ip -o": self._address(node), "units=": self._units(node, script)}
        for beginning, answer in answers.items():
            if script.startswith(beginning):
                return subprocess.CompletedProcess([], 0, answer, "")
        marker, = re.findall(r"rm -f /var/lib/labctl/steps/(\S+)", script)
        self.steps[node].discard(marker)
        verb = "undo"
        if f"touch /var/lib/labctl/steps/{marker}\n" in script:
            self.steps[node].add(marker)
            verb = "apply"
        self.done.append(f"{verb} {node}/{marker}")
        return subprocess.CompletedProcess([], 0, "", "")

    def greeting(self, address: IPv4Address) -> str:
        """Take the place of Host.greeting."""
        node = self._addresses[address]
        return "" if node in self.silent or node not in self.states else "SSH-2.0-there"

    def crash(self, node: PlannedNode) -> None:
        """Take the place of Lab.crash."""
        self.done.append(f"crash {node.name}")
        self.states.pop(node.name, None)

    def start(self, node: PlannedNode) -> None:
        """Take the place of Lab.start."""
        self.done.append(f"start {node.name}")
        self.silent.discard(node.name)
        self.states[node.name] = self.after_boot

    def _address(self, node: str) -> str:
        """Of the only director, as `ip` says it."""
        step = "vip" in self.steps[node]
        return f"2: eth0    inet 10.10.10.1/24 scope global eth0\n{'2: eth0    inet 10.10.10.100/32' if step else ''}\n"

    def _units(self, node: str, script: str) -> str:
        """The units of steps that are done, each of them active: without its step one would not be."""
        needed = re.findall(r'\[ -e /var/lib/labctl/steps/(\S+) \] && units="\$units ([^"]+)"', script)
        units = [unit for step, names in needed if step in self.steps[node] for unit in names.split()]
        return " ".join(units) + "\n" + "active\n" * len(units)


def pretend(monkeypatch: pytest.MonkeyPatch, name: str = "lab", text: str = BASE) -> Nodes:
    """A lab that is up, as far as labctl can see."""
    plan = plan_of(text, name)
    nodes = Nodes(plan)
    recorded(plan)
    monkeypatch.setattr(PrivateRoom, "is_open", lambda _: True)
    monkeypatch.setattr(lab.Lab, "provider", SimpleNamespace(
        states=lambda: nodes.states, hangs=lambda node: node in nodes.hanging))
    monkeypatch.setattr(lab.Lab, "crash", lambda _, node: nodes.crash(node))
    monkeypatch.setattr(lab.Lab, "start", lambda _, node: nodes.start(node))
    monkeypatch.setattr(PrivateRoom, "greeting", lambda _, address, _seconds: nodes.greeting(address))
    monkeypatch.setattr(Ssh, "run", lambda _, *words, **options: nodes.run(*words, **options))
    monkeypatch.setattr(Ssh, "_drop_if_it_hangs", lambda *_: None)
    monkeypatch.setattr(Ssh, "close", lambda _, node: nodes.done.append(f"close {node}"))
    return nodes
