"""What a provider makes of libvirt's answers; by the driver that libvirt has for tests, which lives in this process."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from labctl.base.errors import LabError
from labctl.machines.provider import Provider
from labctl.plan.domain import NAMESPACE

DOMAIN = """\
<domain type="test">
  <name>lab.{node}</name>
  <memory>1024</memory>
  <os><type>hvm</type></os>
  <metadata><lab xmlns="{namespace}" name="lab" uuid="{lab}" part="{node}"/></metadata>
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


def test_a_name_that_another_lab_has_is_taken_and_nothing_of_it_changes(provider: Provider) -> None:
    """Two users have one name on one libvirt."""
    second = Provider("test:///default", uuid4())
    assert second.instances() == {provider.instance: "lab"}
    with pytest.raises(LabError, match="has a lab called 'lab' already") as caught:
        second.must_be_free("lab")
    assert f"labctl down --force {provider.instance} --host test:///default" in caught.value.hint
    second.must_be_free("lab2")
    provider.must_be_free("lab")
    assert second.states() == {}
    assert second.remove_all() == []
    assert provider.states() == {"a": "running", "b": "running"}
    second.close()


def test_volumes_are_told_by_the_id_before_their_name() -> None:
    pool = """<pool type="dir"><name>labctl</name><target><path>/p</path></target></pool>"""
    nobody = Provider("test:///default", UUID(int=0))
    made = nobody._connection.storagePoolCreateXML(pool)
    lab = uuid4()
    for name in (f"{lab}.web.qcow2", "0123456789abcdef.qcow2", "mine.qcow2"):
        made.createXML(f"<volume><name>{name}</name><capacity>1</capacity></volume>")
    assert nobody.volumes() == {f"{lab}.web.qcow2": lab}
    nobody.remove_volumes([f"{lab}.web.qcow2"])
    assert sorted(volume.name() for volume in made.listAllVolumes()) == ["0123456789abcdef.qcow2", "mine.qcow2"]
    made.destroy()
    nobody.close()
