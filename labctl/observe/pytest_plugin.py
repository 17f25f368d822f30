"""A plugin of pytest's for users' own tests of a lab: `pytest --labctl-lab NAME`.

pytest loads it for everybody who has labctl installed, so without that option it loads nothing and changes nothing.
"""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from labctl.base.errors import LabError

if TYPE_CHECKING:
    from labctl.observe.faults.faults import Faults

_OPTION = "--labctl-lab"
_FIXTURES = ("lab", "host", "faults", "probe", "capture")
_HOST_OF_TESTINFRA = "'Host' object is not callable"
"""What a test gets that wants labctl's `host`, since testinfra's has the same name."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the lab."""
    parser.getgroup("labctl").addoption(
        _OPTION, metavar="NAME",
        help=f"Test this lab, which is up, and have the fixtures {', '.join(_FIXTURES)}.")


def pytest_configure(config: pytest.Config) -> None:
    """Add the fixtures, after all other plugins': testinfra has a `host` as well."""
    if config.getoption(_OPTION):
        from labctl.observe import fixtures  # noqa: PLC0415 (others who run pytest need not wait for it)

        config.pluginmanager.register(fixtures)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Test the lab with its lock held, so that nobody changes it meanwhile."""
    name = session.config.getoption(_OPTION)
    if not name or session.config.option.collectonly:
        return (yield)
    if session.config.getoption("dist", "no") != "no":
        raise pytest.UsageError(f"A lab is tested by one process at a time.\nLeave out -n where {_OPTION} is given.")
    with _tested(session.config, name) as faults:
        try:
            return (yield)
        except KeyboardInterrupt:
            faults.hurry(lambda text: _say(session.config, text))
            raise


@contextmanager
def _tested(config: pytest.Config, name: str) -> "Iterator[Faults]":
    from labctl.labs.lab import open_lab, under_test  # noqa: PLC0415 (as above)
    from labctl.observe.faults.faults import Faults  # noqa: PLC0415
    from labctl.observe.fixtures import LAB  # noqa: PLC0415

    with ExitStack() as stack:
        try:
            lab = open_lab(name)
            lab.must_be_open()
            lab.must_not_hang(lab.plan.nodes)
            stack.enter_context(under_test(name))
        except LabError as error:
            raise pytest.UsageError("\n".join(filter(None, [error.message, error.hint]))) from None
        config.stash[LAB] = lab
        faults = Faults(lab, by="check")
        faults.mend(lambda text: _say(config, text))
        yield faults


def _say(config: pytest.Config, text: str) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter:
        reporter.ensure_newline()
        reporter.write_line(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say below a failure what to do about it."""
    report = yield
    hint = _hint(call.excinfo.value, item.config) if call.excinfo else ""
    if hint:
        report.sections.append(("labctl", hint))
    return report


def _hint(problem: BaseException, config: pytest.Config) -> str:
    match problem:
        case LabError():
            return problem.hint
        case pytest.FixtureLookupError(argname=name) if name in _FIXTURES and not config.getoption(_OPTION):
            pass
        case TypeError() if str(problem) == _HOST_OF_TESTINFRA and not config.getoption(_OPTION):
            name = "host"
        case _:
            return ""
    return f"labctl's fixture '{name}' needs a lab that is up: 'pytest {_OPTION} NAME'."
