"""Fixtures of the suite that `labctl test` runs in a lab: the lab, its plan, and the hosts to ask."""

from collections.abc import Callable

import pytest
import testinfra
from observe import Observer
from testinfra.host import Host

from labctl.lab import Lab, open_lab
from labctl.plan import Plan
from labctl.services import Httpd, Ipvs

# A fixture's name to what it stands for in a plan: a test that asks for one runs once for each.
_SUBJECTS: dict[str, Callable[[Plan], list[str]]] = {
    "node": lambda plan: [node.name for node in plan.nodes],
    "httpd_server": lambda plan: [
        node for service in plan.topology.services.values() if isinstance(service, Httpd) for node in service.nodes],
    "ipvs": lambda plan: [name for name, service in plan.topology.services.items() if isinstance(service, Ipvs)],
    "keepalived": lambda plan: [
        name for name, service in plan.topology.services.items()
        if isinstance(service, Ipvs) and service.directors.keepalived],
    "keepalived_pair": lambda plan: [
        name for name, service in plan.topology.services.items()
        if isinstance(service, Ipvs) and len(service.directors.keepalived or []) > 1],
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lab", required=True, help="The name of the lab to check.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    plan = open_lab(metafunc.config.getoption("--lab")).plan
    for name, subjects in _SUBJECTS.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, subjects(plan))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A lab that has nothing of a kind has no check of it; that is no skipped check."""
    items[:] = [item for item in items if "NOTSET" not in item.name]


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Lab:
    """The lab under test."""
    return open_lab(request.config.getoption("--lab"))


@pytest.fixture(scope="session")
def plan(lab: Lab) -> Plan:
    """What the lab should be."""
    return lab.plan


@pytest.fixture(scope="session")
def host(lab: Lab) -> Callable[[str], Host]:
    """A node's name to a testinfra host."""
    def connect(name: str) -> Host:
        return testinfra.get_host(f"ssh://{name}", ssh_config=str(lab.ssh_config), controlpersist=0)

    return connect


@pytest.fixture(scope="session")
def observer(lab: Lab, host: Callable[[str], Host]) -> Observer:
    """What can be seen from outside, and whom to suspect."""
    return Observer(lab, host)
