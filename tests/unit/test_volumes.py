"""What a provider keeps at a libvirt whose files are not ours; by the driver that libvirt has for tests."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from labctl.machines import provider as provider_module
from labctl.machines.provider import Provider

PLACE = SimpleNamespace(uri="test:///default", daemon="libvirt", remedy="")
BASE = "0123456789abcdef.qcow2"


class Uploading(Provider):
    """An upload is kept in the volume's name only: the driver for tests takes no data."""

    cut_off = False

    def _upload(self, pool: Any, name: str, source: Any, size: int) -> Any:
        if self.cut_off:
            pool.createXML(provider_module._volume_xml(name, size, "raw"))
            raise KeyboardInterrupt
        return pool.createXML(provider_module._volume_xml(name, len(source.read()), "raw"))


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Uploading]:
    monkeypatch.setattr(provider_module, "_POOL", "default-pool")
    made = Uploading(PLACE, uuid4())
    yield made
    for volume in volumes(made).values():
        volume.delete()
    made.close()


def volumes(provider: Provider) -> dict[str, Any]:
    """The volumes there are, by name."""
    return {volume.name(): volume for volume in provider._pool().listAllVolumes()}


def test_an_image_is_uploaded_once(provider: Uploading, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * 5000)
    path = provider.base_volume(BASE, disk)
    assert list(volumes(provider)) == [BASE]
    disk.unlink()
    assert provider.base_volume(BASE, disk) == path


def test_an_upload_that_is_cut_off_is_nobodys_image(provider: Uploading, tmp_path: Path) -> None:
    """What is there of it bears the lab's own id, and goes with the lab."""
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * 5000)
    provider.cut_off = True
    with pytest.raises(KeyboardInterrupt):
        provider.base_volume(BASE, disk)
    assert list(volumes(provider)) == [f"{provider.instance}.{BASE}"]
    assert provider.remove_all() == []
    provider.cut_off = False
    provider.base_volume(BASE, disk)
    assert list(volumes(provider)) == [BASE]


def test_a_node_that_starts_again_has_its_volumes(provider: Uploading) -> None:
    seed = provider.lab_volume("rs1.iso", b"seed")
    disk = provider.overlay_volume("rs1.qcow2", Path("/base"), 2**20)
    assert (provider.lab_volume("rs1.iso", b"seed"), provider.overlay_volume("rs1.qcow2", Path("/base"), 2**20)) == (
        seed, disk)
    assert len(volumes(provider)) == 2


class Volume:
    """A volume that says since when it is as it is."""

    def __init__(self, name: str, changed: float, base: str = "") -> None:
        self._name = name
        self._xml = (f"<volume><target><timestamps><mtime>{changed}</mtime></timestamps></target>"
                     f"<backingStore><path>{base}</path></backingStore></volume>")
        self.gone = False

    def name(self) -> str:
        return self._name

    def path(self) -> str:
        return f"/pool/{self._name}"

    def XMLDesc(self) -> str:  # noqa: N802
        return self._xml

    def delete(self) -> None:
        self.gone = True


def test_what_nobody_uses_is_removed(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module.time, "time", lambda: 1_000_000.0)
    old, new = 1000.5, 999_000.0
    found = [Volume("0000000000000000.qcow2", old), Volume("1111111111111111.qcow2", old),
             Volume("2222222222222222.vmlinuz", old), Volume("3333333333333333.initrd", new),
             Volume("4444444444444444.initrd", old), Volume("somebody-elses.qcow2", old),
             Volume(f"{UUID(int=7)}.rs1.qcow2", old, "/pool/1111111111111111.qcow2")]
    real = provider._connection
    provider._connection = SimpleNamespace(listAllDomains=lambda: [
        SimpleNamespace(XMLDesc=lambda: "<domain><os><kernel>/pool/2222222222222222.vmlinuz</kernel></os></domain>")])
    provider._forget_unused(SimpleNamespace(listAllVolumes=lambda: found))
    provider._connection = real
    assert [volume.name()[0] for volume in found if volume.gone] == ["0", "4"]
