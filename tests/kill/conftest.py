"""labctl is killed, interrupted and hung up on, at each of its effects."""

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from machines import Labctl, sweep

# A shell that runs these tests in the background has SIGINT ignored, and whatever it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which moments are tried."""
    parser.addoption("--kill-seed", type=int, default=1, help="Which moments are tried; another number, other moments.")


@pytest.fixture(scope="session")
def make_labctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Labctl]]:
    """Makes labctl commands whose labs nobody else sees; takes down what they leave."""
    made: list[Labctl] = []

    def make() -> Labctl:
        made.append(Labctl.new(tmp_path_factory))
        return made[-1]

    yield make
    for command in made:
        command.dispose()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Take down what an earlier run has left, if it was killed."""
    if not hasattr(session.config, "workerinput"):
        sweep()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Take down what a worker has left; after Ctrl-C it has not the time to do so."""
    if not hasattr(session.config, "workerinput"):
        sweep()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many moments of each command were tried, and how many were survived."""
    counts = {outcome: Counter(match[1] for report in terminalreporter.stats.get(outcome, [])
                               if (match := re.search(r"\[(.+)-SIG", report.nodeid)))
              for outcome in ("passed", "failed")}
    for name in sorted(counts["passed"] | counts["failed"]):
        terminalreporter.write_line(f"{name:<20} {counts['passed'][name]} survived, {counts['failed'][name]} not")
