"""labctl.observe.pytest_plugin: users' own tests of a lab, in a pytest inside this one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from played import Played, faults_of
from samples import KEEPALIVED, plan_of

from labctl.base.errors import LabError
from labctl.labs.lab import under_test
from labctl.observe import fixtures
from labctl.observe.faults import wanted
from labctl.observe.fixtures import Probe, frontend
from labctl.observe.outage import Request, Timeline

HOW_TO = Path(__file__).parents[2] / "docs/how-to"

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a file of tests with labctl's plugin, and after it testinfra's, as may happen to anybody."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(text)
        return pytester.runpytest_inprocess("-p", "labctl.observe.pytest_plugin", "-p", "testinfra.plugin", *options,
                                            no_reraise_ctrlc=True)

    return run


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    """The lab called 'lab', the only one that is up."""
    played = Played(tmp_path)
    monkeypatch.setattr("labctl.labs.lab.open_lab", {"lab": played}.__getitem__)
    return played


# ---- A lab under test -------------------------------------------------------------------------------------


def test_what_is_broken_is_put_back_whatever_becomes_of_the_test(run: Run, lab: Played) -> None:
    result = run("""
        import pytest
        from labctl.observe.faults import wanted

        BROKEN = {"rs1 httpd stopped", "lvs off"}

        def test_block(faults, lab):
            with faults.stop("rs1", "httpd"), faults.crash("lvs"):
                assert lab.broken == {"rs1 apache2 stopped", "lvs off"}
            assert lab.broken == set()

        @pytest.mark.parametrize("fails", [True, False])
        def test_left(faults, lab, fails):
            faults.make(wanted.units(lab.plan, "rs1", "httpd"))
            faults.make(wanted.crash(lab.plan, "lvs"))
            assert lab.broken == BROKEN
            assert not fails

        def test_afterwards(lab):
            assert lab.broken == set()
    """, "--labctl-lab", "lab")
    result.assert_outcomes(passed=3, failed=1)
    assert lab.said.count("lvs there") == 3, "whoever heals a crash waits for the node"
    assert faults_of(lab).in_force() == []


def test_what_cannot_be_put_back_is_an_error_and_the_rest_is_put_back(run: Run, lab: Played) -> None:
    result = run("""
        from labctl.observe.faults import wanted

        def test_left(faults, lab):
            faults.make(wanted.units(lab.plan, "rs1", "httpd"))
            faults.make(wanted.crash(lab.plan, "lvs"))
            lab.silent.add("lvs")
    """, "--labctl-lab", "lab")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*'lvs' did not answer*"])
    assert lab.broken == set()


def test_what_the_user_has_broken_stays_so(run: Run, lab: Played) -> None:
    faults_of(lab).make(wanted.units(lab.plan, "rs1", "httpd"))
    run("def test_none(faults): pass", "--labctl-lab", "lab").assert_outcomes(passed=1)
    assert lab.broken == {"rs1 httpd stopped"}


def test_a_test_that_is_interrupted_puts_back_what_takes_no_time_and_the_next_one_the_rest(
        run: Run, lab: Played) -> None:
    result = run("""
        def test_interrupted(faults):
            with faults.unplug("rs1"), faults.crash("lvs"):
                raise KeyboardInterrupt
    """, "--labctl-lab", "lab")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert (lab.broken, lab.said) == (set(), []), "nobody waited"
    result.stdout.fnmatch_lines(["'lvs' was switched off, and boots again."])
    with under_test("lab"):
        assert [fault.what for fault in faults_of(lab).in_force()] == ["crash lvs"]
    result = run("def test_next(faults): assert faults.in_force() == []", "--labctl-lab", "lab")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["The last test was interrupted; what it had broken is put back, and 'lvs' boots."])
    assert lab.said == ["lvs there", "serves"]


@pytest.mark.usefixtures("lab")
def test_hosts_are_the_labs_and_not_those_of_testinfra(run: Run) -> None:
    result = run("""
        def test_known(host):
            assert host("rs1").run("true").rc == 0
            assert host("rs1").backend.get_connection_type() == "labctl"

        def test_unknown(host):
            host("rs11")
    """, "--labctl-lab", "lab")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*LabError: *'rs11'*", "*- labctl -*", "*'rs1'*"])


@pytest.mark.usefixtures("lab")
def test_nobody_changes_the_lab_meanwhile(run: Run) -> None:
    result = run("""
        import pytest
        from labctl.base.errors import LabError
        from labctl.labs.lab import locked

        def test_lock():
            with pytest.raises(LabError, match="A test or drill of the lab 'lab' is running"), locked("lab"):
                pass
    """, "--labctl-lab", "lab")
    result.assert_outcomes(passed=1)
    with under_test("lab"):
        result = run("def test_never(lab): pass", "--labctl-lab", "lab")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: A test or drill of the lab 'lab' is running.", "Try again when it is done."])


def test_a_lab_that_is_not_up_is_no_lab_to_test(run: Run) -> None:
    result = run("def test_never(): raise AssertionError", "--labctl-lab", "lab")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: No lab called 'lab' is up.", "'labctl up lab' starts it."])
    result = run("def test_listed(lab): pass", "--labctl-lab", "lab", "--collect-only")
    assert result.ret == 0


# ---- Without a lab -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", ["def test_it(faults): pass", "def test_it(lab): pass",
                                  "def test_it(probe, host): pass", "def test_it(host): host('rs1')"])
def test_without_the_option_a_sentence_says_what_is_missing(run: Run, test: str) -> None:
    result = run(test)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*labctl's fixture '*' needs a lab that is up: 'pytest --labctl-lab NAME'."])


def test_without_the_option_nobody_notices_the_plugin(run: Run) -> None:
    result = run("""
        import pytest

        @pytest.fixture
        def faults():
            return "mine"

        def test_mine(faults, host):
            assert faults == "mine" and host.backend.get_connection_type() == "local"

        def test_unknown(nonsense):
            pass

        def test_wrong():
            len(1)
    """)
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.no_fnmatch_line("*labctl's*")


# ---- The example -------------------------------------------------------------------------------------------


def test_the_example_is_fifteen_lines_and_the_page_shows_it() -> None:
    example = (HOW_TO / "test_own.py").read_text()
    assert len(example.splitlines()) <= 15
    assert f"```python\n{example}```" in (HOW_TO / "own-tests.md").read_text()


# ---- Requests ----------------------------------------------------------------------------------------------


def request(began: float, outcome: Any = "answered", server: str = "rs1") -> Request:
    return Request(began=began, ended=began + 0.01, outcome=outcome, server=server if outcome == "answered" else "")


def test_a_probe_tells_who_answered_and_for_how_long_nobody() -> None:
    seen = Probe(lambda: Timeline([request(0), request(1, server="rs2"), request(2, "refused"), request(4)], 5))
    assert seen.servers == {"rs1": 2, "rs2": 1}
    assert [one.outcome for one in seen.lost] == ["refused"]
    assert seen.gap == pytest.approx(3)
    assert Probe(lambda: Timeline([request(0), request(1, "timeout")], 5)).gap == pytest.approx(4.99)
    assert Probe(lambda: Timeline([request(1, "timeout")], 5)).gap == 5


@pytest.mark.usefixtures("lab")
def test_the_requests_of_a_probe_are_those_of_its_block(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked:
        """Requests from long before the block until long after it, each told a moment after its end."""

        def __init__(self, observer: object, asked: Any, rate: float) -> None:
            del observer
            assert (str(asked.address), asked.port, rate) == ("10.10.10.13", 8080, 50)

        @contextmanager
        def serving(self) -> Iterator[None]:
            self.began = time.monotonic() - 1
            yield

        def timeline(self, zero: float) -> Timeline:
            end = time.monotonic() - zero
            every = [self.began - zero + number / 50 for number in range(500)]
            return Timeline([request(began) for began in every if began + 0.3 < end], end)

    monkeypatch.setattr(fixtures, "Asking", Asked)
    monkeypatch.setattr(fixtures, "TIMEOUT_SECONDS", 0.4)
    monkeypatch.setattr(fixtures, "LATE_SECONDS", 0)
    run("""
        import time

        def test_probe(probe):
            with probe("10.10.10.13", 8080, rate=50) as seen:
                time.sleep(0.5)
                meanwhile = len(seen.requests)
            assert 0 < meanwhile < len(seen.requests)
            assert 20 <= len(seen.requests) <= 35
            assert not seen.lost and seen.gap < 0.2
    """, "--labctl-lab", "lab").assert_outcomes(passed=1)


def test_a_probe_asks_the_first_virtual_address_or_the_one_named() -> None:
    plan = plan_of(KEEPALIVED)
    first = plan.frontends()[0]
    assert frontend(plan, None, None) == frontend(plan, str(first.address), None) == first
    assert frontend(plan, str(first.address), first.port + 1).port == first.port + 1
    own = frontend(plan, "10.10.10.13", None)
    assert (str(own.address), own.port) == ("10.10.10.13", 80)
    with pytest.raises(LabError, match="'rs1' is not an IPv4 address"):
        frontend(plan, "rs1", None)
    alone = plan_of("title: One\nnetworks:\n  lan: { subnet: 10.10.10.0/24, host: 10.10.10.1 }\n"
                    "nodes:\n  web: { lan: 10.10.10.11 }\n")
    with pytest.raises(LabError, match="has no address that clients use"):
        frontend(alone, None, None)
