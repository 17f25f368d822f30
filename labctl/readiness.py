"""When is a lab ready? Each node passes its gates, then the lab has to serve. Never guesses, never waits for ever."""

import json
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.domain import Accel
from labctl.errors import GateError
from labctl.plan import Plan, PlannedNode
from labctl.progress import Progress
from labctl.room import Room
from labctl.seed import CONFIGURED
from labctl.services import Frontend
from labctl.ssh import Ssh, Unreachable
from labctl.wait import Deadline, until

if TYPE_CHECKING:
    from labctl.provider import Provider

_SSH_SECONDS = 90
_CONFIGURED_SECONDS = 90
_UNITS_SECONDS = 30
_SERVING_SECONDS = 30
_ATTEMPT_SECONDS = 20
"""One question to a node over SSH."""
_ASK_SECONDS = 0.25
"""Between two attempts to log in. Emulated guests boot slowly, and need the processor more than we do."""
_TCG_PATIENCE = 8
"""How much slower than KVM a guest may be before we give up on it."""
_CONSOLE_TAIL = 15

_CAUSES = (
    (r"labctl: the step (\S+) failed", "the step {0} failed"),
    (r"Kernel panic - not syncing: (.*)", "the kernel panicked: {0}"),
    (r"(No bootable device|Boot failed)", "the disk does not boot"),
    (r"(?:You are in|Entering) (emergency|rescue) mode", "the system is in {0} mode"),
    (r"Out of memory: Killed process \d+ \(([^)]+)\)", "the machine is out of memory ({0} was killed)"),
)
_FATAL = _CAUSES[:4]


def patience(accel: Accel, nodes: int) -> float:
    """The factor on deadlines, for emulation and for more nodes than the processors take at once."""
    crowd = max(1.0, nodes / (2 * (os.cpu_count() or 1)))
    return crowd * (_TCG_PATIENCE if accel == "tcg" else 1)


class Gates:
    """The gates of one lab. `limit` (seconds) replaces every gate's own deadline."""

    def __init__(self, plan: Plan, room: Room, provider: "Provider", ssh: Ssh, accel: Accel,
                 progress: Progress, limit: float | None = None) -> None:
        self._plan = plan
        self._room = room
        self._provider = provider
        self._ssh = ssh
        self._progress = progress
        self._limit = limit
        self._patience = patience(accel, len(plan.nodes))
        self._cancelled = threading.Event()

    def wait_for_nodes(self, nodes: Sequence[PlannedNode]) -> None:
        """Return once every node is configured and its units are up. Raises GateError for the first that fails."""
        with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
            futures = [pool.submit(self._wait_for_node, node) for node in nodes]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self._cancelled.set()
        for future in sorted(done, key=lambda future: isinstance(future.exception(), _Cancelled)):
            future.result()

    def wait_for_service(self) -> None:
        """Return once each VIP has its one holder and answers every client. Raises GateError."""
        for frontend in self._plan.frontends():
            self._one_holder(frontend)
            for client in self._plan.clients():
                self._answers(frontend, client)
        for node in self._plan.nodes:
            self._progress.passed(node.name, "serving")

    # ---- One node -----------------------------------------------------------------------------------

    def _wait_for_node(self, node: PlannedNode) -> None:
        self._reachable(node)
        self._progress.passed(node.name, "ssh")
        self._configured(node)
        self._progress.passed(node.name, "configured")
        self._units_active(node)
        self._progress.passed(node.name, "units")

    def _reachable(self, node: PlannedNode) -> None:
        seen_running = False
        refusal = "it does not answer SSH"

        def answers() -> bool:
            nonlocal seen_running, refusal
            if self._cancelled.is_set():
                raise _Cancelled
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
                return self._ssh.run(node.name, "true", _ATTEMPT_SECONDS).returncode == 0
            except Unreachable as error:
                refusal = error.message.rstrip(".")
                return False

        if not until(answers, self._deadline(_SSH_SECONDS), interval=_ASK_SECONDS * self._patience):
            raise self._failure(node, "ssh", f"{refusal}; it may still be booting")

    def _configured(self, node: PlannedNode) -> None:
        result = "/run/cloud-init/result.json"

        def finished() -> list[str]:
            if self._cancelled.is_set():
                raise _Cancelled
            # Waits over there for a while, so that the guest is not busy with SSH instead of its own work.
            script = (f"for i in $(seq 20); do [ -e {result} ] && break; sleep 0.5; done; "
                      f"[ -e {result} ] && tr -d '\\n' <{result} && echo && cat {CONFIGURED} || true")
            try:
                return self._ssh.run(node.name, script, self._patience * _ATTEMPT_SECONDS).stdout.splitlines()
            except Unreachable:
                return []

        lines = until(finished, self._deadline(_CONFIGURED_SECONDS), interval=0.1)
        if not lines:
            raise self._failure(node, "configured", "cloud-init has not finished")
        errors = json.loads(lines[0])["v1"]["errors"]
        if errors:
            raise self._failure(node, "configured", f"cloud-init reports: {'; '.join(map(str, errors))}")
        if lines[1:] != [self._plan.digest]:
            raise self._failure(node, "configured", "the steps were not all done")

    def _units_active(self, node: PlannedNode) -> None:
        if not node.units:
            return
        script = f"systemctl is-active {' '.join(node.units)} || true"
        states: list[str] = []

        def all_active() -> bool:
            if self._cancelled.is_set():
                raise _Cancelled
            states[:] = self._ssh.run(node.name, script, self._patience * _ATTEMPT_SECONDS).stdout.split()
            return states == ["active"] * len(node.units) or "failed" in states

        until(all_active, self._deadline(_UNITS_SECONDS))
        for unit, state in zip(node.units, states, strict=False):
            if state != "active":
                raise self._failure(node, "units", f"the unit '{unit}' is {state}")

    # ---- The lab --------------------------------------------------------------------------------------

    def _one_holder(self, frontend: Frontend) -> None:
        expected = frontend.holders[0]

        def only_the_first() -> bool:
            return self._holders(frontend) == [expected]

        if not until(only_the_first, self._deadline(_SERVING_SECONDS)):
            holders = self._holders(frontend)
            raise GateError(f"The VIP {frontend.address} should be held by '{expected}' alone, but "
                            f"{' and '.join(map(repr, holders)) or 'no node'} holds it.",
                            hint=f"'labctl steps {self._plan.lab} {expected}' shows what should hold it.")

    def _holders(self, frontend: Frontend) -> list[str]:
        """The nodes that have the VIP on the interface to its segment."""
        holders = []
        for name in frontend.holders:
            interface = self._plan.node(name).interface_to(frontend.address).name
            script = f"ip -o -4 address show dev {interface} to {frontend.address}"
            if self._ssh.run(name, script, self._patience * _ATTEMPT_SECONDS).stdout.strip():
                holders.append(name)
        return holders

    def _answers(self, frontend: Frontend, client: PlannedNode) -> None:
        url = f"http://{frontend.address}:{frontend.port}/"
        script = f"curl -s -o /dev/null -w '%{{http_code}}' --max-time 5 {url} || true"
        said = ""

        def ok() -> bool:
            nonlocal said
            said = self._ssh.run(client.name, script, self._patience * _ATTEMPT_SECONDS).stdout.strip()
            return said == "200"

        if not until(ok, self._deadline(_SERVING_SECONDS)):
            answer = "gets no answer" if said == "000" else f"gets HTTP status {said}"
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
        path: Path | None = self._room.console(node.name)
        if path is None or not path.exists():
            return ""
        text = path.read_bytes()[-20_000:].decode(errors="replace")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\x00-\x08\x0b-\x1f\x7f]", "", text)


class _Cancelled(Exception):
    """Another node has failed already."""
