"""What a provider makes of libvirt's answers; by the driver that libvirt has for tests, which lives in this process."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from labctl.machines.provider import Provider
from labctl.plan.domain import NAMESPACE

DOMAIN = """\
<domain type="test">
  <name>lab.{node}</name>
  <memory>1024</memory>
  <os><type>hvm</type></os>
  <metadata><lab xmlns="{namespace}" uuid="{lab}" part="{node}"/></metadata>
</domain>"""


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A lab with the nodes a and b, at a libvirt that also has a machine of somebody else's."""
    lab = uuid4()
    made = Provider("test:///default", lab)
    for node in "ab":
        made.create_domain(DOMAIN.format(namespace=NAMESPACE, lab=lab, node=node))
    yield made
    made.close()


def test_only_the_labs_own_machines_are_seen(provider: Provider) -> None:
    assert provider.states() == {"a": "running", "b": "running"}
    provider.destroy("a")
    assert provider.states() == {"b": "running"}


def test_a_machine_may_end_while_it_is_looked_at(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list(provider._domains())
    provider.destroy("a")
    monkeypatch.setattr(provider, "_domains", lambda: iter(seen))
    assert provider.states() == {"b": "running"}
    provider.destroy("a")
    assert provider.remove_all() == []
