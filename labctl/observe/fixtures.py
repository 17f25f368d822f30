"""pytest's fixtures for tests of a lab: the suite in tests/labs has them, and so have users' own tests."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from ipaddress import IPv4Address
from typing import TypeAlias

import pytest
from testinfra.host import Host

from labctl.base.errors import LabError
from labctl.base.wait import Deadline, until
from labctl.labs.lab import Lab
from labctl.language.services import Frontend
from labctl.observe.capture import Captured, capturing, must_be_filter, points, settle
from labctl.observe.faults.faults import Faults
from labctl.observe.live import RATE, Asking
from labctl.observe.observer import Observer
from labctl.observe.outage import TIMEOUT_SECONDS, Request, Timeline
from labctl.observe.ticker import LATE_SECONDS
from labctl.plan.plan import Plan

LAB = pytest.StashKey[Lab]()
"""Under this key pytest's config holds the lab that is tested."""
_SETTLE_SECONDS = 1
"""For frames of the block to be read."""


class Probe:
    """What becomes of the requests of a block: until now while one is in it, all of it afterwards."""

    def __init__(self, look: Callable[[], Timeline]) -> None:
        """`look` returns the requests that began in the block."""
        self._look = look

    @property
    def requests(self) -> list[Request]:
        """All requests, in the order in which they began."""
        return self._look().requests

    @property
    def servers(self) -> Counter[str]:
        """How many requests each server answered, by what its page says."""
        return self._look().servers()

    @property
    def lost(self) -> list[Request]:
        """The requests without an answer, or with another status than 200."""
        return self._look().lost

    @property
    def gap(self) -> float:
        """The longest time without an answer, in seconds."""
        timeline = self._look()
        silence = timeline.silence(0, timeline.end)
        return silence.seconds if silence else timeline.end

    def end(self) -> None:
        """Keep it as it is now."""
        timeline = self._look()
        self._look = lambda: timeline


Probing: TypeAlias = Callable[..., AbstractContextManager[Probe]]
Capturing: TypeAlias = Callable[..., AbstractContextManager[list[Captured]]]


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config) -> Lab:
    """The lab under test."""
    return pytestconfig.stash[LAB]


@pytest.fixture(scope="session")
def observer(lab: Lab) -> Observer:
    """Observes the lab, and names steps to suspect."""
    return Observer(lab)


@pytest.fixture(scope="session")
def host(observer: Observer) -> Callable[[str], Host]:
    """Nodes of the lab as testinfra hosts: `host("rs1").service("cron").is_running`."""
    return lambda node: observer.host(observer.plan.node(node).name)


@pytest.fixture
def faults(observer: Observer, request: pytest.FixtureRequest) -> Iterator[Faults]:
    """Breaks things: `with faults.crash("lvs-m"):`. What is still broken when the test ends is put back then."""
    yield observer.faults
    # After Ctrl-C there is no time for it: what takes none has been put back by then.
    if request.session.exitstatus != pytest.ExitCode.INTERRUPTED:
        observer.faults.put_back()


@pytest.fixture
def probe(observer: Observer) -> Probing:
    """Has the client ask for a page at a steady rate: `with probe() as seen:`.

    It asks the lab's first virtual address, or `probe("10.10.10.11", 8080)`, `rate` times a second. The block begins
    once every request is answered.
    """
    @contextmanager
    def probing(address: str | None = None, port: int | None = None, rate: float = RATE) -> Iterator[Probe]:
        asking = Asking(observer, frontend(observer.plan, address, port), rate)
        with asking.serving():
            zero, end = time.monotonic(), float("inf")

            def look() -> Timeline:
                timeline = asking.timeline(zero)
                return Timeline([one for one in timeline.every if 0 <= one.began < end], min(timeline.end, end))

            seen = Probe(look)
            yield seen
            end = time.monotonic() - zero
            until(lambda: False, Deadline(TIMEOUT_SECONDS + LATE_SECONDS))  # Some are still on their way.
            seen.end()

    return probing


@pytest.fixture
def capture(lab: Lab) -> Capturing:
    """Captures frames at nodes, their interfaces and networks: `with capture("rs1", filter="arp") as frames:`.

    The list is filled at the end of the block; `frames[0].packet` is what is in a frame.
    """
    @contextmanager
    def catching(*targets: str, filter: str = "") -> Iterator[list[Captured]]:
        places = points(lab, targets, filter)
        if filter:
            must_be_filter(filter)
        frames: list[Captured] = []
        with capturing(places) as running:
            yield frames
            end = time.time()
            came = settle(running, _SETTLE_SECONDS)
            frames += sorted((each for each in came if each.time <= end), key=lambda each: each.time)

    return catching


def frontend(plan: Plan, address: str | None, port: int | None) -> Frontend:
    """What to ask: the lab's first virtual address, or the one named. Raises LabError."""
    frontends = plan.frontends()
    if address is None:
        if not frontends:
            raise LabError(f"The lab '{plan.lab}' has no address that clients use.",
                           hint="probe(\"10.10.10.11\") asks a node at its own address.")
        return frontends[0]
    try:
        wanted = IPv4Address(address)
    except ValueError:
        raise LabError(f"'{address}' is not an IPv4 address.") from None
    known = (one for one in frontends if one.address == wanted and port in (None, one.port))
    return next(known, Frontend(wanted, port or 80, holders=()))
