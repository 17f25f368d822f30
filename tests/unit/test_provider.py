"""What a provider makes of libvirt's answers; by the driver that libvirt has for tests, which lives in this process."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import libvirt
import pytest

from labctl.base.errors import LabError
from labctl.machines import provider as provider_module
from labctl.machines.provider import Provider
from labctl.plan.domain import NAMESPACE

DOMAIN = """\
<domain type="test">
  <name>{lab}.{node}</name>
  <memory>1024</memory>
  <os><type>hvm</type></os>
  <metadata><lab xmlns="{namespace}" name="lab" uuid="{lab}" part="{node}"/></metadata>
</domain>"""


PLACE = SimpleNamespace(uri="test:///default", daemon="the libvirtd of the lab 'x' (process 42)",
                        remedy="'labctl down x' takes the lab down.")


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A lab with the nodes a and b, at a libvirt that also has a machine of somebody else's."""
    lab = uuid4()
    made = Provider(PLACE, lab)
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
    second = Provider(PLACE, uuid4())
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
    nobody = Provider(PLACE, UUID(int=0))
    made = nobody._connection.storagePoolCreateXML(pool)
    lab = uuid4()
    for name in (f"{lab}.web.qcow2", "0123456789abcdef.qcow2", "mine.qcow2"):
        made.createXML(f"<volume><name>{name}</name><capacity>1</capacity></volume>")
    assert nobody.volumes() == {f"{lab}.web.qcow2": lab}
    nobody.remove_volumes([f"{lab}.web.qcow2"])
    assert sorted(volume.name() for volume in made.listAllVolumes()) == ["0123456789abcdef.qcow2", "mine.qcow2"]
    made.destroy()
    nobody.close()


def busy_with(monkeypatch: pytest.MonkeyPatch, **busy: float) -> dict[str, float]:
    """Have libvirt be busy with machines for so many questions; returns how many are left, less than 0 when it is idle.

    Takes the place of virDomain.jobInfo, whose list begins with the kind of the job.
    """
    def info(domain: Any) -> list[int]:
        node = domain.name().rpartition(".")[2]
        busy[node] -= 1
        return [libvirt.VIR_DOMAIN_JOB_UNBOUNDED if busy[node] >= 0 else libvirt.VIR_DOMAIN_JOB_NONE, 0, 0]

    monkeypatch.setattr(libvirt.virDomain, "jobInfo", info)
    return busy


def test_what_libvirt_had_begun_with_the_labs_machines_is_waited_for(
    provider: Provider, monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = busy_with(monkeypatch, a=1, b=2, test=99)
    provider.settle()
    assert max(busy["a"], busy["b"]) < 0
    assert busy["test"] == 99, "somebody else's machine is not asked about"


def test_a_machine_that_ends_meanwhile_is_not_waited_for(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list(provider._domains())
    provider.destroy("a")
    monkeypatch.setattr(provider, "_domains", lambda: iter(seen))
    gone = libvirt.virDomain.info
    busy = busy_with(monkeypatch, a=99, b=1)
    ask = libvirt.virDomain.jobInfo
    monkeypatch.setattr(libvirt.virDomain, "jobInfo", lambda domain: gone(domain) and ask(domain))
    provider.settle()
    assert (busy["a"], busy["b"] < 0) == (99, True)


def test_libvirt_is_not_waited_for_for_ever(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "_SETTLE_SECONDS", 0.3)
    busy_with(monkeypatch, a=0, b=float("inf"))
    with pytest.raises(LabError, match="does not finish its work on a machine") as caught:
        provider.settle()
    assert "'labctl down'" in caught.value.hint


class Stuck:
    """A libvirt, or a part of it, some of whose calls never return, as those that wait for a stopped process."""

    def __init__(self, real: Any, *stuck: str, **instead: Callable[[], Any]) -> None:
        self._real = real
        self._stuck = stuck
        self._instead = instead

    def __getattr__(self, name: str) -> Any:
        if name in self._stuck:
            return lambda *_: threading.Event().wait()
        return self._instead.get(name) or getattr(self._real, name)

    def listAllDomains(self) -> list[Any]:  # noqa: N802
        """Its machines are stuck in the same way."""
        if "listAllDomains" in self._stuck:
            threading.Event().wait()
        return [Stuck(domain, *self._stuck, **self._instead) for domain in self._real.listAllDomains()]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All deadlines are short."""
    for name in vars(provider_module):
        if name.endswith("_SECONDS"):
            monkeypatch.setattr(provider_module, name, 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("call", [
    lambda provider: provider.states(),
    lambda provider: provider.destroy("a"),
    lambda provider: provider.settle(),
    lambda provider: provider.suspend(),
    lambda provider: provider.resume(),
    lambda provider: provider.save("a", "/none"),
    lambda provider: provider.attach("a", "<disk/>"),
    lambda provider: provider.remove_all(),
])
def test_a_libvirtd_that_hangs_is_named(provider: Provider, call: Callable[[Provider], object]) -> None:
    provider._connection = Stuck(provider._connection, "listAllDomains")
    before = time.monotonic()
    with pytest.raises(LabError, match=r"the libvirtd of the lab 'x' \(process 42\) hangs") as raised:
        call(provider)
    assert time.monotonic() - before < 5
    assert raised.value.hint == "'labctl down x' takes the lab down."


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("call", ["destroy", "suspend", "saveFlags", "attachDeviceFlags"])
def test_a_qemu_that_hangs_is_named(provider: Provider, call: str) -> None:
    provider._connection = Stuck(provider._connection, call)
    does: dict[str, Callable[[], object]] = {
        "destroy": lambda: provider.destroy("a"), "suspend": provider.suspend,
        "saveFlags": lambda: provider.save("a", Path("/none")), "attachDeviceFlags": lambda: provider.attach("a", "")}
    with pytest.raises(LabError, match=r"the QEMU of the machine '[ab]' hangs"):
        does[call]()


@pytest.mark.usefixtures("impatient")
def test_a_machine_that_hangs_does_not_keep_others_from_going_on(provider: Provider) -> None:
    provider.suspend()
    real = provider._connection
    machines = dict(provider._domains())
    provider._connection = SimpleNamespace(
        listAllDomains=lambda: [Stuck(machines["a"], "resume"), machines["b"]])
    with pytest.raises(LabError, match="the QEMU of the machine 'a' hangs"):
        provider.resume()
    provider._connection = real
    assert provider.states() == {"a": "paused", "b": "running"}


@pytest.mark.usefixtures("impatient")
def test_only_a_machine_that_does_not_answer_hangs(provider: Provider) -> None:
    assert not provider.hangs("a")
    assert not provider.hangs("nobody")
    real = provider._connection
    occupied = SimpleNamespace(controlInfo=lambda: [libvirt.VIR_DOMAIN_CONTROL_OCCUPIED, 0, 100])
    provider._connection = Stuck(real, "blockStats")
    assert not provider.hangs("a")  # libvirtd itself is slow.
    provider._connection = Stuck(real, "blockStats", **vars(occupied))
    assert provider.hangs("a")
    occupied.controlInfo = lambda: [libvirt.VIR_DOMAIN_CONTROL_OCCUPIED, 0, 60_000]
    provider._connection = Stuck(real, **vars(occupied))
    assert provider.hangs("a")  # It has been asked before, and is not asked again.


@pytest.mark.usefixtures("impatient")
def test_a_libvirt_that_cannot_even_be_reached_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module.libvirt, "open", lambda _: threading.Event().wait())
    with pytest.raises(LabError, match="cannot be reached: the libvirtd of the lab 'x'"):
        Provider(PLACE, uuid4())
