"""Nodes that tell what they see, as it happens: a program on each, heard over an SSH session of its own."""

import threading
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from math import inf

from typing_extensions import override

from labctl.base.errors import LabError
from labctl.base.process import Dialogue, dialogue
from labctl.base.wait import Deadline, until
from labctl.language.services import Frontend, Ipvs
from labctl.observe.clock import Clock
from labctl.observe.events import FOUND, LOST, Event, Heard, events
from labctl.observe.observer import Observer
from labctl.observe.outage import TIMEOUT_SECONDS, Timeline, requests
from labctl.observe.verdict import CheckFailed

RATE = 20
"""Requests per second, if nobody says otherwise"""
CHECKS_RATE = 5
"""Requests per second of checks, which measure in seconds: a request costs emulated machines tens of milliseconds."""
_FIRST_QUESTIONS, _QUESTION_SECONDS = 6, 5
"""How often a node is asked for the time at first, and how many seconds pass between two questions later."""
_AGAIN_SECONDS = 3
"""After which a connection that ended is tried again."""
_BEGIN_SECONDS = 20
"""For a program to begin to tell; several times that under emulation."""
_OTHERS_SECONDS = 5
"""The same for other nodes than the client, once that has begun."""
_CALM_SECONDS = 2
_MOST_LINES = 500_000


class Stream:
    """What a program on a node tells. A node that is switched off tells again once it is back."""

    def __init__(self, node: str, command: list[str]) -> None:
        self.node = node
        self.lines: list[Heard] = []
        """Grows at its end"""
        self.clock = Clock()
        self._command = command
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def begin(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def end(self) -> None:
        """Listen no more."""
        self._ends.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._ends.is_set():
            with dialogue(self._command) as talk:
                self._hear(talk)
            if self.lines and self.lines[-1][1] != LOST:
                self.lines.append((time.monotonic(), LOST))
            self._ends.wait(_AGAIN_SECONDS)

    def _hear(self, talk: Dialogue) -> None:
        asked: dict[str, float] = {}
        due = 0.0
        answers = 0
        for number in count():
            if self._ends.is_set() or talk.over:
                return
            if len(self.lines) > _MOST_LINES:
                del self.lines[:_MOST_LINES // 2]
            if time.monotonic() >= due and (answers >= _FIRST_QUESTIONS or len(asked) == answers):
                asked[str(number)] = time.monotonic()
                talk.say(str(number))
                due = time.monotonic() + (_QUESTION_SECONDS if answers >= _FIRST_QUESTIONS else 0)
            for line in talk.hear(0.1):
                heard = time.monotonic()
                kind, _, rest = line.partition(" ")
                if kind != "clock":
                    self.lines.append((heard, line))
                    continue
                question, _, said = rest.partition(" ")
                if question in asked:
                    answers += 1
                    self.clock.answered(asked[question], heard, float(said))
                    if answers == 1:
                        self.lines.append((heard, FOUND))


class Asking:
    """The client's requests to an address, at a steady rate."""

    def __init__(self, observer: Observer, frontend: Frontend, rate: float) -> None:
        """`rate` is in requests per second."""
        self.frontend = frontend
        self._observer = observer
        self._asker = self._stream(observer.client_node.name, "requests", frontend.address, frontend.port,
                                   frontend.host or frontend.address, rate, TIMEOUT_SECONDS, observer.fresh_ports(1))

    def _stream(self, node: str, *words: object) -> Stream:
        return Stream(node, self._observer.lab.ssh.command(node, f"exec {self._observer.python('witness', *words)}"))

    @property
    def _streams(self) -> Sequence[Stream]:
        return [self._asker]

    @property
    def error(self) -> float:
        """By how many seconds the times of different nodes may be wrong against each other, at most."""
        return max(stream.clock.error for stream in self._streams if stream.lines)

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Listen for the length of the block to whoever tells something, from when they do."""
        with ExitStack() as ends:
            for stream in self._streams:
                stream.begin()
                ends.callback(stream.end)
            yield

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for the length of the block. Raises LabError where nothing is heard of the client.

        Other nodes that run are waited for as well, and one that cannot be reached tells once it can be.
        """
        lab = self._observer.lab
        states = lab.states()
        running = [stream for stream in self._streams if states[stream.node] == "running"]
        with self.hearing():
            seconds = _BEGIN_SECONDS * lab.patience
            if not until(lambda: bool(self._asker.lines), Deadline(seconds), 0.1):
                raise LabError(f"'{self._asker.node}' does not begin to ask within {seconds:.0f} s.")
            until(lambda: all(stream.lines for stream in running), Deadline(_OTHERS_SECONDS * lab.patience), 0.1)
            yield

    @contextmanager
    def serving(self) -> Iterator[Callable[[], float]]:
        """Listen for the length of the block, which begins when every request is answered.

        The yielded function waits until that is so again, and returns the longest time without an answer, in seconds.
        Raises CheckFailed if nobody answers to begin with, LabError if the answers come too late to tell an outage.
        """
        patience = self._observer.lab.patience
        with self.listening():
            if not self.calm(Deadline(10 * patience)):
                address, port = self.frontend.address, self.frontend.port
                answers = self._observer.sample(address, port, 2, host=self.frontend.host)
                if answers and all(answer.status == 200 for answer in answers):
                    raise LabError(f"{address} answers too slowly for an outage to be measured: the machine that the "
                                   "lab runs on is too busy.")
                raise CheckFailed(f"The VIP {address} did not answer before anything was broken.")
            zero = time.monotonic()

            def away() -> float:
                self.calm(Deadline(5 * patience + TIMEOUT_SECONDS))
                timeline = self.timeline(zero)
                silence = timeline.silence(0, timeline.end)
                return silence.seconds if silence else timeline.end

            yield away

    def calm(self, deadline: Deadline) -> bool:
        """Wait until all requests of two seconds from now on are answered; whether they are, one may know that late."""
        def is_calm() -> bool:
            last = time.monotonic() - TIMEOUT_SECONDS
            return last - _CALM_SECONDS > begun and self.timeline().quiet(last - _CALM_SECONDS, last)

        begun = time.monotonic() - TIMEOUT_SECONDS
        return until(is_calm, deadline)

    def timeline(self, zero: float = 0.0, seconds: float = inf) -> Timeline:
        """The requests until now; times from `zero` of our monotonic clock on.

        With `seconds` only those that were heard of since then, and since the last answer before.
        """
        lines = list(self._asker.lines)
        first = bisect(lines, (time.monotonic() - seconds,))
        while first and " answered " not in lines[first - 1][1]:
            first -= 1
        return Timeline(requests(lines[max(0, first - 1):], self._asker.clock, zero), time.monotonic() - zero)


class Witnesses(Asking):
    """The same, and what happens meanwhile on the nodes that may hold the address or balance what it gets."""

    def __init__(self, observer: Observer, frontend: Frontend, rate: float) -> None:
        """See the base class."""
        super().__init__(observer, frontend, rate)
        self._names = {interface.address: node.name for node in observer.plan.nodes for interface in node.interfaces}
        unit = [frontend.failover.unit] if frontend.failover else []
        directors = {node for service in observer.plan.topology.services.values() if isinstance(service, Ipvs)
                     and frontend.address in service.vips for node in service.directors.nodes}
        self._others = [self._stream(node, "changes", frontend.address, "table" if node in directors else "-", *unit)
                        for node in dict.fromkeys([*frontend.holders, *sorted(directors)])]

    @property
    @override
    def _streams(self) -> Sequence[Stream]:
        return [self._asker, *self._others]

    def events(self, zero: float = 0.0) -> list[Event]:
        """What has happened until now on the other nodes."""
        found = [event for stream in self._others
                 for event in events(stream.node, list(stream.lines), stream.clock, zero, self._names)]
        return sorted(found, key=lambda event: event.at)
