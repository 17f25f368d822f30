"""Nodes are switched on and off, and started again."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from labctl.base.each import of_each
from labctl.base.errors import GateError, LabError, Unreachable
from labctl.base.progress import Progress
from labctl.base.wait import Deadline, until
from labctl.labs import readiness
from labctl.labs.lab import Lab, locked
from labctl.plan.plan import PlannedNode

_ANSWER_SECONDS = 10
"""For a node's sshd to say that it is there, also under TCG: somebody waits to hear that it is not."""
_COMMAND_SECONDS = 10
"""For a node to take the command to go down."""
_STOP_SECONDS = 30
"""For a node's system to stop its services and switch the machine off."""
_GLANCE_SECONDS = 2
"""For each VIP of a lab of which not all is there."""


def start(lab: Lab, nodes: Sequence[PlannedNode], progress: Progress) -> str:
    """Switch nodes on, which boot from their own disks, and return when they are ready and the lab serves.

    Returns why the lab does not serve where other nodes or steps are missing for that, empty if it does.
    Raises LabError for a node that is held still, GateError for one that does not come up.
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
    """Shut the systems of nodes down and switch them off; with `force`, pull their plugs. Disks stay as they are.

    A node that does not go down in time is switched off all the same. Raises LabError, before anything is done, for
    one that cannot be told to.
    """
    def halt(node: PlannedNode) -> None:
        if not force and node.name in lab.provider.states():
            with suppress(Unreachable):  # It may be gone before it has said that it goes.
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
    """Restart the systems of nodes, all at once, and return as `start` does; with `force`, switch them off and on.

    Raises LabError, before anything is done, for a node that cannot be told to, GateError for one that does not come
    back.
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
        lab.crash(node)  # What has panicked is still there, and holds its name.
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
        return missing  # Such a lab does not serve, whatever its VIPs answer.
    try:
        (lab.gates(progress, _GLANCE_SECONDS * lab.patience) if missing else gates).wait_for_service()
    except LabError as error:
        if not missing:
            raise
        return f"{error.message.splitlines()[0]} {missing}"
    return ""


def _missing(lab: Lab, states: Mapping[str, str]) -> str:
    """What was taken away from a lab, in a sentence; empty if it is whole."""
    applied = lab.applied(states)
    lacking = [f"'{name}' is {state}" for name, state in states.items() if state != "running"]
    for node in lab.plan.nodes:
        done = applied[node.name]
        if done is not None:
            lacking += [f"the step '{node.name}/{step.name}' is undone" for step in node.steps if step.name not in done]
    return f"Note that {', and '.join(lacking)}." if lacking else ""
