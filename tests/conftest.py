"""What the fast tests (unit, golden and net) share. The suites that use machines get nothing of it unasked."""

import os
import socket
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NoReturn

import pytest

_STARTERS = (
    *("execv", "execve", "execvp", "execvpe", "execl", "execle", "execlp", "execlpe"),
    *("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"),
)
_XDG = ("CONFIG_HOME", "DATA_HOME", "STATE_HOME", "CACHE_HOME", "RUNTIME_DIR")


def _forbid(what: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail(f"A fast test must not {what}.")

    return refuse


@pytest.fixture
def hermetic(monkeypatch: pytest.MonkeyPatch, own_files: None) -> None:  # noqa: ARG001
    """No other programs, no network, and no files but those in a directory of the test's own."""
    monkeypatch.setattr(subprocess.Popen, "__init__", _forbid("start a program"))
    for name in _STARTERS:
        monkeypatch.setattr(os, name, _forbid("start a program"))
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, _forbid("connect to anything"))


@pytest.fixture
def own_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings, and no files but those in a directory of the test's own."""
    for name in list(os.environ):
        if name.startswith("LABCTL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LABCTL_OFFLINE", "0")  # Commands set it; this is what takes it back.
    monkeypatch.delenv("LABCTL_OFFLINE")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in _XDG:
        monkeypatch.setenv(f"XDG_{name}", str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much is tried."""
    parser.addoption("--thorough", action="store_true",
                     help="Try also what takes long: each case instead of one of a kind (with tests/vm some hours).")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that only a thorough run is for."""
    if config.getoption("--thorough"):
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,  # noqa: ARG001
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """No file of tests may be skipped either."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None],  # noqa: ARG001
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """No test may be skipped: what cannot be tested has to be said, not passed over."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"
    return report
