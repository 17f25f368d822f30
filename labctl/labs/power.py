"""Switching nodes on and off, and rebooting them."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from labctl.base.each import of_each
from labctl.base.errors import GateError, LabError, Unreachable
from labctl.base.progress import Progress
from labctl.base.wait import Deadline, until
from labctl.labs import readiness
from labctl.labs.journal import Journal
from labctl.labs.lab import Lab, locked
from labctl.plan.plan import PlannedNode

_ANSWER_SECONDS = 10
"""For a node's sshd to answer, also under TCG; short, since a user waits to hear that it does not."""
_COMMAND_SECONDS = 10
"""For a node to accept the command to go down."""
_STOP_SECONDS = 30
"""For a node's system to stop its services and switch the machine off."""
_GLANCE_SECONDS = 2
"""For each VIP of an incomplete lab to answer."""


def start(lab: Lab, nodes: Sequence[PlannedNode], progress: Progress) -> str:
    """Switch nodes on, so that they boot from their own disks, and wait until they are ready and the lab serves.

    Returns "" if the lab serves, or why it does not if other nodes or steps are missing for that. Raises LabError if a
    node is paused, GateError if one does not come up.
    """
    with locked(lab.name):
        states = lab.states()
        for node in nodes:
            if states[node.name] == "paused":
                raise LabError(f"The node '{node.name}' is paused, not off.",
                               hint=f"'labctl reboot --force {node.name}' switches it off and on.")
            if states[node.name] == "running":
                progress.say(f"'{node.name}' runs already.")
        return _switch_on(lab, [node for node in nodes if states[node.name] != "running"], progress)


def stop(lab: Lab, nodes: Sequence[PlannedNode], progress: Progress, *, force: bool) -> None:
    """Shut nodes down; with `force`, pull their plugs. Their disks stay as they are.

    A node that does not shut down in time is switched off all the same. Raises LabError, before anything is done, if a
    node cannot be told to shut down.
    """
    def halt(node: PlannedNode) -> None:
        if not force and node.name in lab.provider.states():
            with suppress(Unreachable):  # The node may go down before it has answered.
                lab.ssh.do(node.name, "systemctl poweroff", _COMMAND_SECONDS * lab.patience,
                           f"The node '{node.name}' could not be shut down")
            deadline = Deadline(_STOP_SECONDS * lab.patience)
            if not until(lambda: node.name not in lab.provider.states(), deadline):
                progress.say(f"'{node.name}' did not go down in {deadline.seconds:.0f} s, and is switched off.")
        lab.crash(node)

    with locked(lab.name):
        if not force:
            states = lab.states()
            _must_answer(lab, [node for node in nodes if states[node.name] != "off"], "stop", "switches it off")
        of_each(nodes, halt)


def reboot(lab: Lab, nodes: Sequence[PlannedNode], progress: Progress, *, force: bool) -> str:
    """Reboot nodes, all at once; with `force`, switch them off and on. Returns as `start` does.

    Raises LabError, before anything is done, if a node cannot be told to reboot, GateError if one does not come back.
    """
    with locked(lab.name):
        if force:
            return _switch_on(lab, nodes, progress)
        _must_answer(lab, nodes, "reboot", "switches it off and on")
        gates = lab.gates(progress)
        gates.turn_the_page(nodes)

        def restart(node: PlannedNode) -> str:
            progress.passed(node.name, "defined")
            seconds, failure = _COMMAND_SECONDS * lab.patience, f"The node '{node.name}' could not be rebooted"
            boot = lab.ssh.do(node.name, readiness.BOOT_ID, seconds, failure).strip()
            with suppress(Unreachable):  # As above.
                lab.ssh.do(node.name, "systemctl reboot", seconds, failure)
            lab.ssh.close(node.name)
            return boot

        return _wait(lab, gates, nodes, progress, of_each(nodes, restart).values())


def _must_answer(lab: Lab, nodes: Sequence[PlannedNode], verb: str, what: str) -> None:
    states = lab.states()

    def check(node: PlannedNode) -> None:
        lab.must_run(node, states)
        if not lab.host.greeting(lab.plan.access_address(node), _ANSWER_SECONDS).startswith("SSH-"):
            raise Unreachable(f"The node '{node.name}' does not answer, so it cannot be told to {verb}.",
                              hint=f"'labctl {verb} --force {node.name}' {what}, as by its plug.")

    of_each(nodes, check)


def _switch_on(lab: Lab, nodes: Sequence[PlannedNode], progress: Progress) -> str:
    gates = lab.gates(progress)
    gates.turn_the_page(nodes)
    for node in nodes:
        lab.crash(node)  # A machine whose guest panicked still exists, and occupies its name.
        lab.start(node)
        progress.passed(node.name, "defined")
    return _wait(lab, gates, nodes, progress)


def _wait(lab: Lab, gates: readiness.Gates, nodes: Sequence[PlannedNode], progress: Progress,
          past: Collection[str] = ()) -> str:
    if nodes:
        try:
            gates.wait_for_nodes(nodes, past)
        except GateError as error:
            raise GateError(error.message, hint=f"'labctl logs {nodes[0].name}' shows all of its console, "
                                                f"'labctl reset {lab.name}' puts the lab back.") from None
    states = lab.states()
    missing = _missing(lab, states)
    if set(states.values()) != {"running"}:
        return missing  # A lab with a node missing does not serve, whatever its VIPs answer.
    try:
        (lab.gates(progress, _GLANCE_SECONDS * lab.patience) if missing else gates).wait_for_service()
    except LabError as error:
        if not missing:
            raise
        return f"{error.message.splitlines()[0]} {missing}"
    return ""


def _missing(lab: Lab, states: Mapping[str, str]) -> str:
    """A sentence about what is missing from a lab or broken on purpose in it; of an exercise, without the steps.

    Empty if the lab is complete and no exercise.
    """
    lacking = [f"'{name}' is {state}" for name, state in states.items() if state != "running"]
    if lab.record.exercise:
        return f"Note that {', and '.join([*lacking, 'the lab is an exercise, which need not serve'])}."
    applied = lab.applied(states)
    for node in lab.plan.nodes:
        done = applied[node.name]
        if done is not None:
            lacking += [f"the step '{node.name}/{step.name}' is undone" for step in node.steps if step.name not in done]
    lacking += [f"the fault '{fault.what}' is in force" for fault in Journal(lab.directory).faults()
                if fault.kind not in ("crash", "freeze")]  # Whether those are still so, the states say.
    return f"Note that {', and '.join(lacking)}." if lacking else ""
