"""labctl is killed, interrupted and hung up on, at each of its effects."""

import re
from collections import Counter
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """What the suites that use machines have in common."""
    config.pluginmanager.import_plugin("machine_suites")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which moments are tried."""
    parser.addoption("--kill-seed", type=int, default=1, help="Which moments are tried; another number, other moments.")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many moments of each command were tried, and how many were survived."""
    counts = {outcome: Counter(match[1] for report in terminalreporter.stats.get(outcome, [])
                               if (match := re.search(r"\[(.+)-SIG", report.nodeid)))
              for outcome in ("passed", "failed")}
    for name in sorted(counts["passed"] | counts["failed"]):
        terminalreporter.write_line(f"{name:<20} {counts['passed'][name]} survived, {counts['failed'][name]} not")
