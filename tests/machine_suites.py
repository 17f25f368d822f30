"""A plugin of pytest's for the suites that use machines: tests/vm and tests/kill."""

import signal
from collections.abc import Callable, Iterator

import pytest
from machines import Labctl, sweep

# A shell that runs these tests in the background has SIGINT ignored, and whatever it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
