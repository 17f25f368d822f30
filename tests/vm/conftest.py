"""Real labs: booted once, by the command that users type, and shared by the tests of this directory."""

import random
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from machines import GUEST, PATIENCE, SOLO, TINY, Labctl
from xdist.scheduler import LoadScopeScheduling

from labctl.images import store
from labctl.language import catalog
from labctl.plan import guests, plan
from labctl.plan.plan import Plan

collect_ignore = [] if shutil.which("apt-get") else ["test_builder.py"]
"""Its disk has GRUB of Debian's package, and its mirror a package of Debian's kind."""

SHARED = ["lvs-dr-keepalived", "lvs-dr"]
"""The labs that are up for the whole session; they have the same addresses."""
RESET = [*SHARED, "nginx-heartbeat"]
"""The labs that tests put back to how they were, and that are therefore saved."""
USERS_OF_SHARED = ("test_drill", "test_fault_kinds", "test_hangs", "test_lifecycle", "test_one_node_is_reset",
                   "test_own_tests", "test_packets", "test_reset")
"""Tests that use them: one worker has all of them, or another one would bring the labs up as well."""
OWN = {path.stem: path for path in sorted((Path(__file__).parent / "topologies").glob("*.yaml"))}
"""Topologies that are in no shipped file."""
LONGEST = ["nginx-heartbeat", "two-vips", "haproxy-keepalived", "lvs-nat-keepalived"]
"""Of the others, the labs whose tests take longest."""
ONLY_THOROUGH = ["base", "multi-tier-ha", "nat-five"]
"""Labs of many machines of which the ordinary run has everything in others: the steps of base in all of them, those of
multi-tier-ha in multi-tier and lvs-dr-keepalived, and those of nat-five in lvs-nat and lvs-schedulers."""
LABS = [*SHARED, *(name for name in catalog.names() if name not in SHARED), *OWN]


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A topology of two small nodes."""
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    return str(file)


@pytest.fixture
def solo(tmp_path: Path) -> str:
    """A topology of one small node, for what is not about services."""
    file = tmp_path / "solo.yaml"
    file.write_text(SOLO)
    return str(file)


@pytest.fixture(scope="session")
def image() -> store.Image:
    """The image that all labs run on; scripts/test has built it."""
    return store.find(GUEST)


@pytest.fixture
def labctl(make_labctl: Callable[[], Labctl]) -> Labctl:
    """A labctl of this test's own."""
    return make_labctl()


@pytest.fixture(scope="session")
def labs(make_labctl: Callable[[], Labctl]) -> Labctl:
    """A labctl for the labs that several tests use."""
    return make_labctl()


@pytest.fixture(scope="session")
def shared(labs: Labctl) -> Labctl:
    """The same with the shared labs up."""
    for name in SHARED:
        labs("up", name, timeout=120 * PATIENCE, use="start", LABCTL_ONCE="0")
    return labs


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, labs: Labctl) -> Iterator[str]:
    """Each lab in turn: up, and after the tests that use it down, with nothing left of it."""
    name = request.param
    # A parametrization without scope="session" would bring its lab up for each single test.
    assert request.scope == "session"
    if name in SHARED:
        request.getfixturevalue("shared")
        yield name
        return
    for row in labs.json("list"):  # The shared ones come first, and machines cost something also when they are idle.
        labs("down", row["lab"])
    once = str(int(name not in RESET))
    labs("up", str(OWN.get(name, name)), timeout=180 * PATIENCE, use="start", LABCTL_ONCE=once)
    yield name
    labs("down", name)
    assert [line for line in labs.leftovers() if re.search(rf"/{name}(?![\w-])", line)] == []


def pytest_configure(config: pytest.Config) -> None:
    """What the suites that use machines have in common."""
    config.pluginmanager.import_plugin("machine_suites")


def pytest_addoption(parser: pytest.Parser) -> None:
    """In which order a lab's checks run."""
    parser.addoption("--shuffle", type=int, metavar="SEED", default=random.randrange(1_000_000),
                     help="Run the checks of each lab in the order that a number stands for (another one each time).")


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to have the same order again."""
    return f"checks run in the order of --shuffle {config.getoption('--shuffle')}"


@pytest.fixture
def shuffled(pytestconfig: pytest.Config) -> tuple[str, str]:
    """What has `labctl test` run in that order."""
    return "--shuffle", str(pytestconfig.getoption("--shuffle"))


def _lab_of(nodeid: str) -> str | None:
    """The lab that a test is about, as its name says; of the shared ones the first."""
    words = re.findall(r"[\w-]+", nodeid.partition("[")[2])
    lab = next((word for word in words[:1] if word in LABS), None)
    return SHARED[0] if lab in SHARED or any(name in nodeid for name in USERS_OF_SHARED) else lab


class _ByLab(LoadScopeScheduling):  # type: ignore[misc]
    """All tests of one lab go to one worker; the others wherever there is time."""

    def _split_scope(self, nodeid: str) -> str:
        return _lab_of(nodeid) or nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Who runs what."""
    config.option.loadscopereorder = False
    return _ByLab(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of one lab together, so that each is brought up once; what takes longest comes first."""
    labs = sorted(LABS, key=lambda lab: (*SHARED, *LONGEST, lab).index(lab))
    within = ["test_lifecycle", "test_checkpoints", "test_checks_bite", "test_undone", "test_rebooted", "test_every"]
    alone = ["test_builder", "test_checkpoints", "test_install", "test_rootless", "test_doctor", "test_host"]

    def place(item: pytest.Item) -> tuple[int, int]:
        lab = _lab_of(item.nodeid)
        assert lab in SHARED or "shared" not in getattr(item, "fixturenames", ()), f"{item.nodeid}: see USERS_OF_SHARED"
        names, otherwise = (within, 0) if lab else (alone, len(alone))
        return ([*labs, None].index(lab),
                next((position for position, name in enumerate(names) if name in item.nodeid), otherwise))

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how long each file's tests took; with several workers their sum is longer than the run."""
    seconds: dict[str, float] = defaultdict(float)
    tests: dict[str, int] = defaultdict(int)
    for report in [report for reports in terminalreporter.stats.values() for report in reports]:
        if isinstance(report, pytest.TestReport):
            file = Path(report.location[0]).name
            seconds[file] += report.duration
            tests[file] += report.when == "call"
    for file, long in sorted(seconds.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{long / 60:6.1f} min of a worker: {tests[file]:3} in {file}")


def labs_of(thorough: bool) -> list[str]:
    """The labs that are tried."""
    return [lab for lab in LABS if thorough or lab not in ONLY_THOROUGH]


def planned(lab: str) -> Plan:
    """What a lab will be."""
    return plan.make(catalog.load(OWN.get(lab) or catalog.find(lab)), lab, guests.load(GUEST))


def failures(report: Path) -> dict[str, str]:
    """The ids of failed checks in a JUnit report, with what they said."""
    found = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        for outcome in [*case.findall("failure"), *case.findall("error")]:
            name = next(each.attrib["value"] for each in case.iter("property") if each.attrib["name"] == "id")
            found[name] = (outcome.text or "") + outcome.attrib.get("message", "")
    return found
