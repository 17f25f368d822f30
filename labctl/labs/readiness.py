"""Readiness: each node passes its gates, then the lab has to serve. Every wait has a deadline."""

import json
import os
import re
import shlex
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.base.each import of_each
from labctl.base.errors import GateError, LabError, Unreachable
from labctl.base.files import tail
from labctl.base.progress import Progress
from labctl.base.text import these
from labctl.base.wait import Deadline, until
from labctl.images.accel import slowness
from labctl.labs.ssh import Ssh
from labctl.language.services import Frontend
from labctl.machines.host import Host
from labctl.machines.memory import wake
from labctl.plan.domain import Accel
from labctl.plan.plan import Plan, PlannedNode
from labctl.plan.seed import CONFIGURED

if TYPE_CHECKING:
    from labctl.machines.provider import Provider

_SSH_SECONDS = 90
_CONFIGURED_SECONDS = 90
_UNITS_SECONDS = 30
_SERVING_SECONDS = 30
_ATTEMPT_SECONDS = 20
"""For one question to a node over SSH."""
_FETCH_SECONDS = 5
"""For one page from a VIP."""
_END = "=end="
"""Separates answers."""
_GREETING_SECONDS = 5
"""For the sshd of a restored node, which was running when the node was saved."""
_HANGS_SECONDS = 20
"""For QEMU to answer libvirt while its guest is silent; a longer silence fails the gate."""
_ASK_SECONDS = 0.25
"""Between two attempts to log in; stretched by patience, since emulated guests need the processor to boot."""
_CONSOLE_TAIL = 15
_CONSOLE_BYTES = 20_000
_LONGEST = 300
"""The most characters of a guest's output in a message."""

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
"""A command that prints an id, which changes with each boot."""


def _say(file: str) -> str:
    """A shell command that prints a file without starting a program such as cat."""
    return f"""while IFS= read -r line || [ "$line" ]; do printf '%s\\n' "$line"; done <{file}"""


_STATUS, _RESULT = "/run/cloud-init/status.json", "/run/cloud-init/result.json"
_AWAIT_RESULT = (f"i=0; while [ -e {_STATUS} ] && [ ! -e {_RESULT} ] && [ $i -lt 20 ]; "
                 "do sleep 0.5; i=$((i + 1)); done; "
                 f"if [ -e {_RESULT} ]; then {_say(_RESULT)}; {_say(CONFIGURED)}; "
                 f"elif [ ! -e {_STATUS} ]; then echo '{{\"v1\": {{\"errors\": []}}}}'; {_say(CONFIGURED)}; fi")
"""A shell command that prints cloud-init's result and the digest of the plan whose steps are done, or nothing yet.

cloud-init runs at a node's first boot only; then its status file exists before SSH is up. The command waits a while on
the node, so that the guest need not spend its time on SSH logins.
"""
_WOKEN = "/run/labctl-woken.{}"
"""The guest's file that exists once its clock has been set, so that a repeated question does not set it twice."""
_CLOCK_SECONDS = 0.1
"""By how much a clock may be off; SSH cannot tell much more exactly."""

_CAUSES = (
    (r"labctl: the step (\S+) failed", "the step {0} failed"),
    (r"Kernel panic - not syncing: (.*)", "the kernel panicked: {0}"),
    (r"(No bootable device|Boot failed)", "the disk does not boot"),
    (r"(?:You are in|Entering) (emergency|rescue) mode", "the system is in {0} mode"),
    (r"Out of memory: Killed process \d+ \(([^)]+)\)", "the machine is out of memory ({0} was killed)"),
)
_FATAL = _CAUSES[:4]


def patience(accel: Accel, nodes: int) -> float:
    """The factor on deadlines, for emulation and for more nodes than the processors can run at once."""
    return crowd(nodes) * slowness(accel)


def crowd(nodes: int) -> float:
    """How many times more nodes there are than the processors can run at once; at least 1."""
    return max(1.0, nodes / (2 * (os.cpu_count() or 1)))


class Gates:
    """The gates of one lab. `limit` (seconds) replaces the deadline of every gate."""

    def __init__(self, plan: Plan, host: Host, provider: "Provider", ssh: Ssh, accel: Accel,
                 progress: Progress, limit: float | None = None) -> None:
        self._plan = plan
        self._host = host
        self._provider = provider
        self._ssh = ssh
        self._progress = progress
        self._limit = limit
        self._patience = patience(accel, len(plan.nodes))
        self._said: dict[tuple[str, str], str] = {}
        """Answers that nodes gave in advance, by node and question, until they are used."""
        self._pages: dict[str, int] = {}
        """At which byte of its console a node's last start begins."""

    def wait_for_nodes(self, nodes: Sequence[PlannedNode], past: Collection[str] = (), *,
                       late: Mapping[str, float] | None = None, start: Callable[[PlannedNode], None] | None = None,
                       at_once: int | None = None) -> None:
        """Return once every node is configured and its units are active. Raises GateError for the first that fails.

        A node that still has one of the `past` boot ids has yet to go down. With `late`, the nodes are restored ones,
        and their clocks are put forward by so many seconds. `start` is called first for each node, to start its
        machine. At most `at_once` nodes come up at a time.
        """
        moment = time.time_ns()

        def wait_for(node: PlannedNode) -> None:
            if start:
                start(node)
            if late is None:
                self._reachable(node, past, BOOT_ID)
                self._set_clock(node)
            else:
                self._wake(node, late[node.name], _WOKEN.format(moment))
            self._wait_for_node(node)

        of_each(nodes, wait_for, at_once=at_once, together=True)

    def wait_for_service(self) -> None:
        """Return once each VIP has exactly one holder and answers every client. Raises GateError.

        All nodes have to run.
        """
        self._all_run()
        frontends = self._plan.frontends()
        for frontend in {frontend.address: frontend for frontend in frontends}.values():
            self._one_holder(frontend)
        for frontend in frontends:
            for client in self._plan.clients():
                self._answers(frontend, client)
        for node in self._plan.nodes:
            self._progress.passed(node.name, "serving")

    def look(self) -> None:
        """Check that a lab that has come up before still serves. Raises LabError.

        Each node is asked just once, for everything that its gates and the service need, since logins are slow.
        """
        self._all_run()

        def look_at(node: PlannedNode) -> None:
            quick, pages = self._questions(node)
            said = self._reachable(node, (), _in_turn([*quick, *map(_by_bash, pages)]))
            self._hear(node, [*quick, *pages], said)
            self._wait_for_node(node)

        of_each(self._plan.nodes, look_at)
        self.wait_for_service()

    def put_clocks_forward(self, nodes: Sequence[PlannedNode], late: Mapping[str, float]) -> None:
        """Correct the clocks of restored nodes; nodes that do not answer stay late.

        For a lab that was broken when it was saved, so that its gates may never pass.
        """
        def ask(node: PlannedNode) -> None:
            with suppress(Unreachable):
                wake.ask(self._port(node), "true", late[node.name], _ATTEMPT_SECONDS)

        of_each(nodes, ask)

    def turn_the_page(self, nodes: Sequence[PlannedNode]) -> None:
        """Ignore what is on nodes' consoles so far, when looking for causes; they are about to be started again."""
        for node in nodes:
            path = self._host.console(node.name)
            self._pages[node.name] = path.stat().st_size if path and path.exists() else 0

    # ---- One node -----------------------------------------------------------------------------------

    def _wait_for_node(self, node: PlannedNode) -> None:
        self._progress.passed(node.name, "ssh")
        self._configured(node)
        self._progress.passed(node.name, "configured")
        self._units_active(node)
        self._progress.passed(node.name, "units")

    def _wake(self, node: PlannedNode, late: float, woken: str) -> None:
        """Put a restored node's clock forward, ask for everything that gates and service need, and check its sshd.

        This is one question, without a login, since both are slow on a machine that has just been restored.
        """
        quick, pages = self._questions(node)
        seconds = _ATTEMPT_SECONDS + _FETCH_SECONDS * len(self._plan.frontends())
        try:
            said = wake.ask(self._port(node), f"{_in_turn([*quick, *pages])}; : >{woken}", late, seconds)
        except Unreachable:
            set_clock = f"[ -e {woken} ] || {{ : >{woken}; {wake.put_forward(late)} >/dev/null; }}"
            script = _in_turn([*quick, *map(_by_bash, pages)])
            said = self._reachable(node, (), f"{set_clock}; {script}", seconds)
        else:
            self._progress.passed(node.name, "booting")
            self._greeted(node)
        self._hear(node, [*quick, *pages], said)

    def _questions(self, node: PlannedNode) -> tuple[list[str], list[str]]:
        """The questions whose answers gates and service need; separately, those for pages, which only clients get."""
        frontends = self._plan.frontends()
        is_client = node in self._plan.clients()
        return ([_AWAIT_RESULT, _say_still_up(node),
                 *(_say_held(frontend, node) for frontend in frontends if node.name in frontend.holders)],
                [say_status(frontend) for frontend in frontends if is_client])

    def _hear(self, node: PlannedNode, questions: Sequence[str], said: str) -> None:
        """Keep a node's answers until `_ask` wants them."""
        self._said |= {(node.name, question): text
                       for question, text in zip(questions, said.split(_END), strict=False)}

    def _port(self, node: PlannedNode) -> Path:
        """The socket at which a restored node waits for a question."""
        return self._host.serial(node)

    def _set_clock(self, node: PlannedNode) -> None:
        """Correct the clock of a node that has booted, and has only the hardware clock's time."""
        with suppress(LabError):  # If something is wrong with the node, the next gates say what.
            late = -self._ssh.clock_ahead(node.name, self._patience * _ATTEMPT_SECONDS)
            if abs(late) > _CLOCK_SECONDS:
                self._ssh.run(node.name, wake.put_forward(late), self._patience * _ATTEMPT_SECONDS)

    def _reachable(self, node: PlannedNode, past: Collection[str], question: str,
                   seconds: float = _ATTEMPT_SECONDS) -> str:
        """Repeat a question until there is an answer that is not in `past`, and return it."""
        answer = ""
        seen_running = False
        refusal = "it does not answer SSH; it may still be booting"

        def answers() -> bool:
            nonlocal seen_running, refusal, answer
            state = self._provider.states().get(node.name)
            if state != "running":
                raise self._failure(node, "booting", f"the machine is {state or 'gone'}")
            if not seen_running:
                seen_running = True
                self._progress.passed(node.name, "booting")
            cause = self._cause(node, _FATAL)
            if cause:
                raise self._failure(node, "booting", cause)
            try:
                result = self._ssh.run(node.name, question, seconds)
            except Unreachable as error:
                if self._provider.hangs(node.name, _HANGS_SECONDS):
                    raise self._failure(node, "ssh", f"its QEMU hangs; it did not answer libvirt within "
                                                     f"{_HANGS_SECONDS} s") from None
                refusal = f"{error.message.rstrip('.')}; it may still be booting"
                return False
            answer = result.stdout.strip()
            if answer in past:
                refusal = "it does not go down"
                self._ssh.close(node.name)  # The shared connection would outlast the node's restart.
                return False
            return result.returncode == 0

        if not until(answers, self._deadline(_SSH_SECONDS), interval=_ASK_SECONDS * self._patience):
            raise self._failure(node, "ssh", refusal)
        return answer

    def _greeted(self, node: PlannedNode) -> None:
        address, deadline = self._plan.access_address(node), self._deadline(_GREETING_SECONDS)

        def greets() -> bool:
            return self._host.greeting(address, deadline.remaining).startswith("SSH-")

        if not until(greets, deadline):
            raise self._failure(node, "ssh", "its sshd does not answer")

    def _ask(self, node: PlannedNode, question: str) -> str:
        """A node's answer, perhaps one that it gave in advance. Raises Unreachable."""
        if (node.name, question) in self._said:
            return self._said.pop((node.name, question))
        return self._ssh.run(node.name, question, self._patience * _ATTEMPT_SECONDS).stdout

    def _configured(self, node: PlannedNode) -> None:
        def finished() -> str:
            try:
                return self._ask(node, _AWAIT_RESULT).strip()
            except Unreachable:
                return ""

        said = until(finished, self._deadline(_CONFIGURED_SECONDS), interval=0.1)
        if not said:
            raise self._failure(node, "configured", "cloud-init has not finished")
        try:
            result, end = json.JSONDecoder().raw_decode(said)
            errors = [str(error) for error in result["v1"]["errors"]]
        except (ValueError, TypeError, LookupError, RecursionError):
            raise self._failure(node, "configured", f"{_RESULT} is not what cloud-init writes") from None
        if errors:
            raise self._failure(node, "configured", f"cloud-init reports: {'; '.join(errors)[:_LONGEST]}")
        if said[end:].strip() != self._plan.digest:
            raise self._failure(node, "configured", "the steps were not all done")

    def _units_active(self, node: PlannedNode) -> None:
        if not node.units:
            return
        if self._said.pop((node.name, _say_still_up(node)), "").split() == ["active"] * len(node.units):
            return
        states: dict[str, str] | None = None

        def all_active() -> bool:
            nonlocal states
            units, heard, said = self._ask(node, say_units(node)).partition("\n")
            states = dict(zip_longest(units.split(), said.split(), fillvalue="unknown")) if heard else None
            return states is not None and ("failed" in states.values() or set(states.values()) <= {"active"})

        until(all_active, self._deadline(_UNITS_SECONDS))
        if states is None:
            raise self._failure(node, "units", "it does not say what state its units are in")
        for unit, state in states.items():
            if state != "active":
                raise self._failure(node, "units", f"the unit '{unit}' is {state[:_LONGEST]}")

    # ---- The lab --------------------------------------------------------------------------------------

    def _all_run(self) -> None:
        """Raise GateError if any node's machine does not run, even one that no VIP needs."""
        states = self._provider.states()
        for node in self._plan.nodes:
            state = states.get(node.name, "gone")
            if state != "running":
                raise self._failure(node, "booting", f"the machine is {state}")

    def _one_holder(self, frontend: Frontend) -> None:
        first = frontend.holders[0]
        any_will_do = frontend.failover is not None and not frontend.failover.returns

        def settled() -> bool:
            holders = self._holders(frontend)
            return holders == [first] or (any_will_do and len(holders) == 1)

        election = frontend.failover.crash_seconds if frontend.failover else 0
        if not until(settled, self._deadline(_SERVING_SECONDS + election)):
            holders = self._holders(frontend)
            who = "one node" if any_will_do else f"'{first}'"
            raise GateError(f"The VIP {frontend.address} should be held by {who} alone, but "
                            f"{these(holders, 'holds', 'hold', 'no node')} it.",
                            hint=f"'labctl steps {self._plan.lab} {first}' shows what should hold it.")

    def _holders(self, frontend: Frontend) -> list[str]:
        """The nodes that have the VIP on the interface to its segment."""
        def holds(node: PlannedNode) -> bool:
            return bool(self._ask(node, _say_held(frontend, node)).strip())

        held = of_each([self._plan.node(name) for name in frontend.holders], holds)
        return [name for name, has in held.items() if has]

    def _answers(self, frontend: Frontend, client: PlannedNode) -> None:
        url = f"http://{frontend.address}:{frontend.port}/"
        status = ""

        def ok() -> bool:
            nonlocal status
            question = say_status(frontend)
            said = self._said.pop((client.name, question), "") or self._ask(client, _by_bash(question))
            status = (said.split(maxsplit=2)[1:2] or [""])[0]
            return status == "200"

        if not until(ok, self._deadline(_SERVING_SECONDS)):
            answer = f"gets HTTP status {status[:_LONGEST]}" if status else "gets no answer"
            raise GateError(f"The lab does not serve: '{client.name}' {answer} from {url}.",
                            hint=f"'labctl test {self._plan.lab}' finds out which step is wrong.")

    # ---- Failures ---------------------------------------------------------------------------------------

    def _deadline(self, seconds: float) -> Deadline:
        return Deadline(self._limit or seconds * self._patience)

    def _failure(self, node: PlannedNode, gate: str, reason: str) -> GateError:
        cause = self._cause(node, _CAUSES) or reason
        detail = "" if cause == reason else f" ({reason})"
        tail = self.console_tail(node)
        message = f"'{node.name}' did not pass the gate '{gate}': {cause}{detail}."
        if tail:
            message += f"\nThe end of its console:\n{tail}"
        return GateError(message, hint="'--keep' leaves a lab that failed as it is, to look into it.")

    def _cause(self, node: PlannedNode, causes: Sequence[tuple[str, str]]) -> str:
        text = self._console_text(node)
        for pattern, sentence in causes:
            match = re.search(pattern, text)
            if match:
                return sentence.format(*(group.strip() for group in match.groups()))
        return ""

    def console_tail(self, node: PlannedNode) -> str:
        """The last lines of a node's console, without control sequences."""
        lines = [line.rstrip() for line in self._console_text(node).splitlines() if line.strip()]
        return "\n".join(f"    {line}" for line in lines[-_CONSOLE_TAIL:])

    def _console_text(self, node: PlannedNode) -> str:
        path: Path | None = self._host.console(node.name)
        if path is None or not path.exists():
            return ""
        since = max(0, path.stat().st_size - self._pages.get(node.name, 0))
        text = tail(path, min(_CONSOLE_BYTES, since)).decode(errors="replace")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\x00-\x08\x0b-\x1f\x7f]", "", text)


def _in_turn(questions: Sequence[str]) -> str:
    """One line of shell that prints the answers to all questions, each followed by `_END`."""
    return "; ".join(f"{question}; echo {_END}" for question in questions)


def say_units(node: PlannedNode) -> str:
    """A command that prints the units that the node's done steps need, and then, line by line, the state of each."""
    needed = "; ".join(f'[ -e {step.marker} ] && units="$units {" ".join(step.units)}"'
                       for step in node.steps if step.units)
    return f'units=; {needed}; echo $units; [ -z "$units" ] || systemctl is-active $units || true'


def _say_still_up(node: PlannedNode) -> str:
    """A command that prints "active" for each active unit without starting systemctl, which is slow under TCG.

    systemd keeps this link until a unit is inactive or failed (unit_notify in its unit.c). Before version 235 it keeps
    none, and the command prints nothing.
    """
    links = (f"/run/systemd/units/invocation:{unit}.service" for unit in node.units)
    return "; ".join(["true", *(f"[ -h {link} ] && echo active" for link in links)])


def _say_held(frontend: Frontend, node: PlannedNode) -> str:
    """A command that prints something only if the node has the VIP on the interface to its segment."""
    return f"ip -o -4 address show dev {node.interface_to(frontend.address).name} to {frontend.address}"


def say_status(frontend: Frontend) -> str:
    """A bash command that prints the first line of the VIP's answer.

    It starts no program, which would be slow on a restored machine. Besides, nmap's nc would not do: it closes its half
    of the connection at the end of its input, and nginx as a proxy then takes the client for gone.
    """
    request = rf"GET / HTTP/1.0\r\nHost: {frontend.host or frontend.address}\r\n\r\n"
    ask = f"printf '{request}' >&3; read -r -t {_FETCH_SECONDS} line <&3; printf '%s\\n' \"$line\""
    return f"trap '' PIPE; {{ {ask}; }} 3<>/dev/tcp/{frontend.address}/{frontend.port}"


def _by_bash(question: str) -> str:
    """The same command for any shell, with a time limit, since bash waits two minutes for a connection."""
    return f"timeout {_FETCH_SECONDS} bash -c {shlex.quote(question)}"
