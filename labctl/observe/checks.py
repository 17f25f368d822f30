"""Running the suite in tests/labs against a lab with pytest, and turning each result into a verdict."""

import os
import random
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from labctl.base.errors import LabError
from labctl.base.resources import CHECKS
from labctl.labs.lab import Lab, under_test
from labctl.observe import fixtures
from labctl.observe.faults.faults import Faults
from labctl.observe.selection import matching
from labctl.observe.verdict import Check, CheckFailed, Verdict, Watcher

_MEASURED = "measured"


def choose(lab: Lab, expression: str = "") -> list[Check]:
    """The checks of a lab that match `expression`, in order. Raises LabError for a malformed expression."""
    return _Suite(lab, expression, list_only=True).run()


def run(lab: Lab, watcher: Watcher, expression: str = "", seed: int | None = None) -> list[Verdict]:
    """Make the checks of a lab that match `expression`, in the suite's order or in one determined by `seed`.

    `expression` is as for `selection.matching`. Raises LabError for a malformed expression.
    """
    suite = _Suite(lab, expression, watcher=watcher, seed=seed)
    faults = Faults(lab, by="check")
    with under_test(lab.name), _interruptible(suite) as interruption:
        try:
            faults.mend(watcher.say)
            suite.run()
        except KeyboardInterrupt:
            interruption.ignored = True
            faults.hurry(watcher.say)
            raise
    return suite.verdicts


class _Interruption:
    """Remembers that a signal such as Ctrl-C came, in case Python or pytest drops the KeyboardInterrupt."""

    def __init__(self) -> None:
        self.came = False
        self.ignored = False
        self.before: dict[int, Any] = {}
        """The earlier handlers, which are called as well, since labctl's own records the interruption."""

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if not self.ignored:
            self.came = True
            if callable(self.before[number]):
                self.before[number](number, frame)
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if one came and was dropped."""
        if self.came:
            raise KeyboardInterrupt


@contextmanager
def _interruptible(suite: "_Suite") -> Iterator[_Interruption]:
    interruption = suite.interruption
    for number in map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            interruption.before[number] = signal.signal(number, interruption.receive)
    try:
        yield interruption
    finally:
        for number, handler in interruption.before.items():
            signal.signal(number, handler)


class _Suite:
    """A pytest plugin that chooses checks and collects their verdicts."""

    def __init__(self, lab: Lab, expression: str, *, watcher: Watcher | None = None, seed: int | None = None,
                 list_only: bool = False) -> None:
        self.verdicts: list[Verdict] = []
        self._lab = lab
        self._expression = expression
        self._watcher = watcher
        self._seed = seed
        self._list_only = list_only
        self._checks: dict[str, Check] = {}
        self._broken: list[str] = []
        self._ended: SystemExit | None = None
        self.interruption = _Interruption()

    def run(self) -> list[Check]:
        """Run pytest; returns the chosen checks."""
        # A user's own plugins and options for pytest must not take effect here.
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        os.environ.pop("PYTEST_ADDOPTS", None)
        code = pytest.main([
            str(CHECKS), "-c", str(CHECKS / "pytest.ini"), "--rootdir", str(CHECKS),
            *(f"-pno:{plugin}" for plugin in ("terminal", "cacheprovider", "unraisableexception", "threadexception")),
            *(["--collect-only"] if self._list_only else []),
        ], plugins=[self, fixtures])
        self.interruption.check()
        if self._ended:
            raise self._ended
        if self._broken or code in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
            raise RuntimeError("\n".join(["The suite cannot be run.", *self._broken]))
        return list(self._checks.values())

    def pytest_configure(self, config: pytest.Config) -> None:
        """Hand the lab to the suite."""
        config.stash[fixtures.LAB] = self._lab

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the chosen checks, and put them in order."""
        named = [(item, check_of(item)) for item in items]
        wanted = {check.id for check in matching([check for _, check in named], self._expression)}
        config.hook.pytest_deselected(items=[item for item, check in named if check.id not in wanted])
        items[:] = [item for item, check in named if check.id in wanted]
        if self._seed is not None:
            random.Random(self._seed).shuffle(items)
        self._checks = {item.nodeid: check_of(item) for item in items}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what of the suite cannot be read, which is a bug."""
        if report.failed:
            self._broken.append(str(report.longrepr))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Tell the watcher that a check begins."""
        self.interruption.check()
        if self._watcher:
            self._watcher.begins(self._checks[nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None],
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn a check's result into a verdict."""
        report = yield
        if call.when == "call" or (call.when == "setup" and call.excinfo):
            verdict = judged(self._checks[item.nodeid], call.excinfo.value if call.excinfo else None,
                             report.duration, dict(item.user_properties).get(_MEASURED))
            if self._lab.record.exercise:
                verdict = verdict.model_copy(update={"suspects": ()})
            self.verdicts.append(verdict)
            if self._watcher:
                try:
                    self._watcher.ends(verdict)
                except SystemExit as error:  # Nobody reads the output any more; pytest would take it for a bug.
                    self._ended = error
                    item.session.shouldstop = "nobody reads the output"
        return report


def judged(check: Check, problem: BaseException | None, seconds: float, measured: object = None) -> Verdict:
    """The verdict on a check that ended with `problem`; unless that is CheckFailed, it could not be made."""
    facts = {**dict(check), "seconds": round(seconds, 3), "measured": measured}
    match problem:
        case None:
            return Verdict(**facts, outcome="passed")
        case CheckFailed():
            return Verdict(**facts, outcome="failed", message=problem.message, suspects=problem.suspects)
        case LabError():
            return Verdict(**facts, outcome="unknown", message=problem.message)
        case _:
            message = f"{_bug(problem)}: {type(problem).__name__}: {problem}"
            return Verdict(**facts, outcome="unknown", message=message)


def _bug(problem: BaseException) -> str:
    trace = problem.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})" if trace else ""
    return f"This is a bug in the check{place}; please report it"


def check_of(item: pytest.Item) -> Check:
    """A test of the suite as a check; its title is the first line of the test's docstring."""
    function: object = getattr(item, "function", None)
    words = (getattr(function, "__doc__", None) or item.name).strip().splitlines()[0]
    callspec = getattr(item, "callspec", None)
    subject = str(callspec.id) if callspec else ""
    name = getattr(function, "__name__", item.name).removeprefix("test_")
    return Check(id=f"{subject}/{name}" if subject else name, title=f"{subject}: {words}" if subject else words,
                 subject=subject)
