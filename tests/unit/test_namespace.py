"""labctl.base.namespace: which users and groups a namespace gets."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from labctl.base import namespace
from labctl.base.errors import LabError
from labctl.base.namespace import Range

KVM_GROUP = 108


@pytest.fixture
def subid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An ordinary user 'alice', 1000:1000, and the directory with the files subuid and subgid that are read."""
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "getgid", lambda: 1000)
    monkeypatch.setattr(namespace, "user_name", lambda: "alice")
    real = namespace._entries
    monkeypatch.setattr(namespace, "_entries", lambda file: real(str(tmp_path / Path(file).name)))
    for name in ("subuid", "subgid"):
        (tmp_path / name).write_text("bob:100000:65536\nalice:165536:65536\n")
    return tmp_path


@pytest.fixture
def kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A /dev/kvm of the group kvm."""
    monkeypatch.setattr(namespace, "_KVM", SimpleNamespace(
        exists=lambda: True, stat=lambda: SimpleNamespace(st_gid=KVM_GROUP)))


def test_an_ordinary_user_is_root_and_has_the_subordinate_ids(subid: Path) -> None:
    both = [Range(0, 1000, 1), Range(1, 165_536, 65_536)]
    assert namespace.ids() == (both, both)
    (subid / "subuid").write_text("1000:5000:10\nalice:7000:20\n# alice:1:1\nalice:x:y\n")
    assert namespace.ids().users == [Range(0, 1000, 1), Range(1, 5000, 10), Range(11, 7000, 20)]
    assert namespace.machine_user() == 0


def test_without_subordinate_ids_there_is_none_and_the_advice_takes_nobody_elses(subid: Path) -> None:
    (subid / "subgid").write_text("bob:100000:65536\n9:165536:70000\nnobody:1879048192:65536\n")
    with pytest.raises(LabError) as caught:
        namespace.ids()
    assert caught.value.message == "The file '/etc/subgid' has no subordinate ids for 'alice'."
    assert caught.value.hint == "sudo usermod --add-subgids 235536-301071 alice"
    (subid / "subuid").unlink()
    with pytest.raises(LabError) as caught:
        namespace.ids()
    assert caught.value.hint == "sudo usermod --add-subuids 100000-165535 alice"


@pytest.mark.usefixtures("kvm")
def test_without_subordinate_ids_the_group_of_kvm_cannot_be_had(subid: Path) -> None:
    (subid / "subgid").unlink()
    assert namespace.kvm_group() is None


@pytest.mark.usefixtures("kvm")
def test_the_group_of_kvm_is_had_where_it_is_a_subordinate_one(subid: Path) -> None:
    assert namespace.kvm_group() is None
    assert "0,1" not in namespace.as_machine(["true"])
    (subid / "subgid").write_text(f"alice:165536:65536\nalice:{KVM_GROUP}:1\n")
    inside = namespace.kvm_group()
    assert inside == 65_537
    assert Range(inside, KVM_GROUP, 1) in namespace.ids().groups
    assert namespace.as_machine(["true"])[-3:] == ["--groups", f"0,{inside}", "true"]


def rooted(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Root, in a user namespace with so many ids."""
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(os, "getgid", lambda: 0)
    monkeypatch.setattr(namespace, "_has", lambda _, number: number < length)


@pytest.mark.parametrize(("length", "stranger"), [(2**32 - 1, 1_879_048_192), (65_536, 65_533)])
def test_roots_machines_run_as_somebody_else(monkeypatch: pytest.MonkeyPatch, length: int, stranger: int) -> None:
    rooted(monkeypatch, length)
    both = [Range(0, 0, 1), Range(stranger, stranger, 1)]
    assert namespace.ids() == (both, both)
    assert namespace.as_machine(["true"]) == [
        "setpriv", "--reuid", str(stranger), "--regid", str(stranger), "--groups", str(stranger), "true"]


def test_root_of_a_container_with_one_id_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rooted(monkeypatch, 1)
    with pytest.raises(LabError, match="In this container root has no ids for a lab's machines"):
        namespace.ids()


def test_a_map_of_ids_is_read(tmp_path: Path) -> None:
    file = tmp_path / "uid_map"
    file.write_text("         0       1000          1\n         1     100000      65536\n")
    assert [namespace._has(file, number) for number in (0, 65_536, 65_537)] == [True, True, False]
