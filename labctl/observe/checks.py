"""Run the suite in tests/labs against a lab, and say plainly what came of it."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from rich.console import Console
from rich.markup import escape

from labctl.base.resources import CHECKS
from labctl.labs.lab import Lab

PASSED = 0
FAILED = 1
COULD_NOT_CHECK = 2
NO_CHECKS = 3
INTERRUPTED = 130


def run(lab: Lab, console: Console, *, expression: str, list_only: bool, junit: Path | None, html: Path | None) -> int:
    """Run the checks whose names match `expression`, or list them; returns labctl's exit code."""
    arguments = [
        str(CHECKS), "-c", str(CHECKS / "pytest.ini"), "--rootdir", str(CHECKS), "--lab", lab.name,
        # The report below says it in our words.
        "-p", "no:terminal", "-p", "no:cacheprovider",
        *(["-k", expression] if expression else []),
        *(["--collect-only"] if list_only else []),
        *(["--junit-xml", str(junit.absolute())] if junit else []),
        *(["-p", "pytest_metadata.plugin", "-p", "pytest_html.plugin", "--html", str(html.absolute()),
           "--self-contained-html"] if html else []),
    ]
    # Whatever plugins and options the user has for his own tests have no business here.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ.pop("PYTEST_ADDOPTS", None)
    report = _Report(console, list_only)
    code = pytest.main(arguments, plugins=[report])
    if code == pytest.ExitCode.INTERRUPTED:
        return INTERRUPTED
    if code in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
        return COULD_NOT_CHECK
    if list_only:
        return PASSED if report.listed else NO_CHECKS
    return report.conclude()


class _Report:
    """Prints a line per check; keeps count of the three outcomes."""

    def __init__(self, console: Console, list_only: bool) -> None:
        self._console = console
        self._list_only = list_only
        self._titles: dict[str, str] = {}
        self._passed = self._failed = self._unknown = 0
        self.listed = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remember what to call each check."""
        for item in session.items:
            self._titles[item.nodeid] = _title(item)
            if self._list_only:
                self._console.print(f"{item.name:<32} {_title(item)}", markup=False, soft_wrap=True)
        self.listed = len(session.items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A suite that cannot be read is a bug, shown as one."""
        if report.failed:
            self._console.print(str(report.longrepr), markup=False)
            self._unknown += 1

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None],
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tell a check that failed from one that could not be made: anything but a failed assertion."""
        report = yield
        if call.excinfo is not None and not call.excinfo.errisinstance((AssertionError, pytest.fail.Exception)):
            report.user_properties.append(("could_not_check", str(call.excinfo.value)))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print the outcome of a check."""
        title = escape(self._titles.get(report.nodeid, report.nodeid))
        title += "".join(f" ({value})" for key, value in report.user_properties if key == "measured")
        reasons = [str(value) for key, value in report.user_properties if key == "could_not_check"]
        if reasons and not report.passed:
            self._unknown += 1
            self._console.print(f"[yellow]?[/] {title}: could not check", soft_wrap=True)
            self._detail(reasons[0])
        elif report.failed:
            self._failed += 1
            self._console.print(f"[red]✗[/] {title}  [dim]{report.duration:.1f} s[/]", soft_wrap=True)
            self._detail(str(report.longrepr))
        elif report.when == "call" and report.passed:
            self._passed += 1
            self._console.print(f"[green]✓[/] {title}  [dim]{report.duration:.1f} s[/]", soft_wrap=True)

    def conclude(self) -> int:
        """Print the totals; returns the exit code."""
        counts = [f"{self._passed} passed", f"{self._failed} failed"]
        if self._unknown:
            counts.append(f"{self._unknown} could not be checked")
        self._console.print(", ".join(counts))
        if self._failed:
            return FAILED
        if self._unknown:
            return COULD_NOT_CHECK
        return PASSED if self._passed else NO_CHECKS

    def _detail(self, text: str) -> None:
        for line in text.splitlines():
            self._console.print(f"    {line}", markup=False, soft_wrap=True)


def _title(item: pytest.Item) -> str:
    function = getattr(item, "function", None)
    words = (getattr(function, "__doc__", None) or item.name).strip().splitlines()[0]
    callspec = getattr(item, "callspec", None)
    return f"{callspec.id}: {words}" if callspec else words
