"""Looks at a lab without a pause: at its machines, at its nodes, and at what clients get."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event as Flag
from threading import Thread
from typing import Generic, TypeVar

from labctl.base.each import of_each
from labctl.base.errors import LabError, Unreachable
from labctl.base.progress import Gate
from labctl.base.wait import CalledOff, Deadline, obey, until
from labctl.labs.journal import Fault, Journal
from labctl.labs.lab import Lab
from labctl.labs.readiness import crowd
from labctl.language.services import Frontend
from labctl.observe.events import Event
from labctl.observe.live import Witnesses
from labctl.observe.observer import Observer
from labctl.observe.overview import SECONDS, Said, Seen, Snapshot, Transition, hear, question, snapshot
from labctl.observe.ticker import Ticker
from labctl.plan.plan import PlannedNode

Value = TypeVar("Value")

_STATES_SECONDS, _NODES_SECONDS = 1, 4
"""Between two looks at the machines, and between two questions to the nodes, which cost them time."""
_ANSWER_SECONDS = 5
_FIRST_SECONDS = 20
"""For the client to make its first request; several times that under emulation."""
_MOST_TRANSITIONS = 100


class Regular(Generic[Value]):
    """Looks at something again and again in a thread of its own, and keeps what was seen last."""

    def __init__(self, look: Callable[[], Value], first: Value, seconds: float) -> None:
        """`seconds` pass between two looks."""
        self._value = first
        self.looks = 0
        """How many looks have shown something"""
        self.trouble = ""
        """Why the last look showed nothing"""
        self._look = look
        self._seconds = seconds
        self._bug: BaseException | None = None
        self._ends = Flag()
        self._thread = Thread(target=self._run, daemon=True)

    @property
    def value(self) -> Value:
        """What was seen last."""
        if self._bug:
            raise self._bug
        return self._value

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look for the length of the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._ends.set()
            self._thread.join()

    def _run(self) -> None:
        obey(self._ends)
        while not self._ends.is_set():
            try:
                self._value, self.looks, self.trouble = self._look(), self.looks + 1, ""
            except CalledOff:
                return
            except LabError as error:
                self.trouble = error.message
            except BaseException as error:
                self._bug = error
                return
            self._ends.wait(self._seconds)


class Lookout:
    """A lab, as it is seen now."""

    def __init__(self, lab: Lab, frontend: Frontend, rate: float) -> None:
        """`rate` is that of the client's requests to the frontend, per second."""
        self._lab = lab
        self._frontend = frontend
        self._rate = rate
        self._witnesses = Witnesses(Observer(lab), frontend, rate)
        self._journal = Journal(lab.directory)
        self._machines: Regular[tuple[dict[str, str], list[Fault]]] = Regular(
            lambda: (lab.states(), self._journal.faults()), ({}, []), _STATES_SECONDS)
        self._nodes: Regular[dict[str, Said | None]] = Regular(self._ask_nodes, {}, _NODES_SECONDS)
        self._ticker = Ticker(rate, lab.patience)
        self._transitions: deque[Transition] = deque(maxlen=_MOST_TRANSITIONS)
        self._zero = time.monotonic()
        self._began = datetime.now(UTC)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look for the length of the block; how the machines are is known when it begins. Raises LabError."""
        with ExitStack() as ends:
            for each in (self._witnesses.hearing(), self._machines.looking(), self._nodes.looking()):
                ends.enter_context(each)
            until(lambda: self._machines.looks or self._machines.trouble, Deadline(_FIRST_SECONDS), 0.05)
            if not self._machines.looks:
                raise LabError(self._machines.trouble or f"How the machines of '{self._lab.name}' are is not known "
                                                         f"within {_FIRST_SECONDS} s.")
            yield

    @property
    def trouble(self) -> str:
        """Why something is not seen."""
        return self._machines.trouble or self._nodes.trouble

    def see_enough(self) -> None:
        """Wait until a snapshot has something of everything that there is to see, for some seconds at most."""
        client = self._lab.plan.clients()[0].name
        deadline = Deadline(_FIRST_SECONDS * self._lab.patience)

        def asks() -> bool:
            states, _ = self._machines.value
            return states.get(client) != "running" or bool(self._witnesses.timeline(self._zero).requests)

        until(asks, deadline, 0.1)
        before = self._nodes.looks  # A look may be under way, and the next one is about requests.
        until(lambda: self._nodes.looks >= before + 2, deadline, 0.1)

    def snapshot(self, passed: Mapping[str, Gate]) -> Snapshot:
        """The lab now; `passed` are the gates of nodes that somebody waits for. Raises LabError if it is gone."""
        states, faults = self._machines.value
        if set(states.values()) == {"gone"}:
            raise LabError(f"The lab '{self._lab.name}' is gone.")
        timeline = self._witnesses.timeline(self._zero, SECONDS + 10)
        events = self._witnesses.events(self._zero)
        for at, text in self._ticker.news(timeline, list(_news(events))):
            self._transitions.append(Transition(at=self._began + timedelta(seconds=round(at, 3)), text=text))
        return snapshot(self._lab.plan, Seen(
            at=datetime.now(UTC), frontend=self._frontend, rate=self._rate, exercise=self._lab.record.exercise,
            states=states, said=self._nodes.value, passed=passed, timeline=timeline, events=events,
            ticker=self._ticker, faults=faults, transitions=list(self._transitions)))

    def _ask_nodes(self) -> dict[str, Said | None]:
        states = self._lab.states()
        plan = self._lab.plan
        seconds = _ANSWER_SECONDS * crowd(len(plan.nodes))

        def ask(node: PlannedNode) -> Said | None:
            try:
                return hear(plan, self._lab.ssh.run(node.name, question(plan, node), seconds).stdout)
            except Unreachable:
                return None

        return of_each([node for node in plan.nodes if states[node.name] == "running"], ask)


def _news(events: list[Event]) -> Iterator[Event]:
    """What happened, without what was found when nodes were first asked."""
    lost: set[str] = set()
    for event in events:
        if event.kind == "node" and not event.has:
            lost.add(event.node)
        if not event.late and (event.kind != "node" or event.node in lost):
            yield event
