"""labctl.observe.doctor: what is found on a machine, and what is advised."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from labctl.base import machine, namespace
from labctl.base.errors import LabError
from labctl.images import accel
from labctl.observe import doctor
from labctl.observe.doctor import Finding


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root directory of a machine of Debian's kind on which all is well for its user 'alice'."""
    drivers = tmp_path / "usr/lib/x86_64-linux-gnu/libvirt/connection-driver"
    drivers.mkdir(parents=True)
    for driver in ("qemu", "network", "storage"):
        (drivers / f"libvirt_driver_{driver}.so").touch()
    (tmp_path / "tun").touch()
    monkeypatch.setattr(doctor, "_ROOT", tmp_path)
    monkeypatch.setattr(machine, "_TUN", tmp_path / "tun")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(namespace, "user_name", lambda: "alice")
    monkeypatch.setattr(namespace, "subordinate", lambda _: [])
    monkeypatch.setattr(namespace, "run", lambda _: "")
    monkeypatch.setattr(accel, "kvm_problem", lambda: "")
    monkeypatch.setattr(doctor, "available_memory", lambda: 8000)
    monkeypatch.setattr(doctor, "free_disk", lambda _: (9000, tmp_path))
    installed(monkeypatch)
    return tmp_path


def installed(monkeypatch: pytest.MonkeyPatch, *, dnf: bool = False, missing: str = "") -> None:
    """All programs are, but dnf where it is not wanted, and `missing`."""
    monkeypatch.setattr(shutil, "which", lambda program: None if program == missing or (
        program == "dnf" and not dnf) else f"/usr/bin/{program}")


def unsound() -> list[Finding]:
    """What is not fine, besides that there is no image yet."""
    found = doctor.examine()
    assert found[-1].verdict == "note", "an image can be built once all else is there"
    return [finding for finding in found[:-1] if finding.verdict != "fine"]


@pytest.mark.usefixtures("root")
def test_a_sound_machine() -> None:
    assert unsound() == []


@pytest.mark.usefixtures("root")
def test_what_captures_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, missing="tcpdump")
    assert unsound() == [Finding("tcpdump", "note", "is not installed; 'labctl capture' and 'labctl trace' need it",
                                 "sudo apt-get install tcpdump")]


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(("dnf", "mend"), [
    (False, "sudo apt-get install util-linux"), (True, "sudo dnf install util-linux")])
@pytest.mark.parametrize("program", ["unshare", "nsenter", "setpriv"])
def test_each_program_of_a_room_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, program: str, dnf: bool, mend: str,
) -> None:
    installed(monkeypatch, dnf=dnf, missing=program)
    finding, = unsound()
    assert (finding.what, finding.verdict, finding.mend) == (program, "missing", mend)


@pytest.mark.parametrize("driver", ["qemu", "network", "storage"])
def test_a_libvirt_that_is_split_has_to_have_all_its_parts(root: Path, driver: str) -> None:
    next(root.rglob(f"libvirt_driver_{driver}.so")).unlink()
    finding, = unsound()
    assert finding.what == f"libvirt's driver {driver}"
    assert finding.mend == f"sudo apt-get install libvirt-daemon-driver-{driver}"


def test_a_library_directory_of_enterprise_linux(root: Path) -> None:
    (root / "usr/lib/x86_64-linux-gnu").rename(root / "usr/lib64")
    assert unsound() == []


def refuse(*_: object) -> NoReturn:
    """In the place of what makes a namespace."""
    raise LabError("Operation not permitted")


@pytest.mark.parametrize(("setting", "value", "user", "mend"), [
    ("user/max_user_namespaces", "0", 1000, "echo user.max_user_namespaces=15000 | sudo tee /etc/sysctl.d/90-labctl.c"),
    ("user/max_user_namespaces", "0", 0, "echo user.max_user_namespaces=15000 | sudo tee /etc/sysctl.d/90-labctl.conf"),
    ("kernel/unprivileged_userns_clone", "0", 1000, "echo kernel.unprivileged_userns_clone=1 | sudo tee /etc/sysctl.d"),
    ("kernel/unprivileged_userns_clone", "0", 0, "a container has to be started with the right to make namespaces"),
    ("kernel/unprivileged_userns_clone", "1", 1000, "what is missing above comes first"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", 1000, "printf 'abi <abi/4.0>,\\nprofile labctl \"/"),
])
def test_why_a_room_cannot_be_made(
    root: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, user: int, mend: str,
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: user)
    monkeypatch.setattr(namespace, "run", refuse)
    (root / "proc/sys" / setting).parent.mkdir(parents=True)
    (root / "proc/sys" / setting).write_text(f"{value}\n")
    finding, = unsound()
    assert finding.detail == "a private room cannot be made: Operation not permitted"
    assert finding.mend.startswith(mend)


def test_the_profile_is_for_one_program_and_no_protection_is_switched_off(
    root: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(namespace, "run", refuse)
    (root / "proc/sys/kernel").mkdir(parents=True)
    (root / "proc/sys/kernel/apparmor_restrict_unprivileged_userns").write_text("1\n")
    finding, = unsound()
    assert f'profile labctl "{namespace.START}" flags=(unconfined) {{ userns, }}' in finding.mend
    assert "sysctl" not in finding.mend
    assert os.access(namespace.START, os.X_OK), "a profile is for a program by its path, so it has to be one"


@pytest.mark.usefixtures("root")
def test_a_room_is_tried_by_what_one_begins_with(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(namespace, "run", lambda argv: tried.extend(map(str, argv)))
    assert unsound() == []
    assert any("mount -t tmpfs" in word and "type bridge" in word for word in tried)
    assert "setpriv" in tried


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("change", [lambda tun: tun.unlink(), lambda tun: tun.chmod(0)])
def test_without_a_tun_device_there_is_no_lab(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]) -> None:
    change(machine._TUN)
    monkeypatch.setattr(os, "access", lambda path, _: path.stat().st_mode & 0o777)
    finding, = unsound()
    assert (finding.what, finding.verdict) == ("/dev/net/tun", "missing")
    with pytest.raises(LabError, match="which the network interfaces of machines need"):
        machine.check_tun()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(("problem", "group", "user", "mend"), [
    (accel.NOT_ALLOWED, 108, 1000, "sudo usermod --add-subgids 108-108 alice"),
    (accel.NOT_ALLOWED, 0, 1000, "echo 'KERNEL==\"kvm\", MODE=\"0666\"' | sudo tee /etc/udev/rules.d/90-labctl.rules"),
    (accel.NOT_ALLOWED, 108, 0, "echo 'KERNEL==\"kvm\", MODE=\"0666\"' | sudo tee /etc/udev/rules.d/90-labctl.rules"),
    (accel.UNTRIED, 108, 1000, "what is missing above comes first"),
    ("there is no /dev/kvm", 108, 1000, "enable virtualization in the firmware"),
])
def test_kvm_is_never_had_by_becoming_a_member_of_a_group(
    monkeypatch: pytest.MonkeyPatch, problem: str, group: int, user: int, mend: str,
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: user)
    monkeypatch.setattr(accel, "kvm_problem", lambda: problem)
    monkeypatch.setattr(doctor, "_KVM", SimpleNamespace(stat=lambda: SimpleNamespace(st_gid=group)))
    finding, = unsound()
    assert finding.verdict == "note"
    assert finding.mend.startswith(mend)
    assert "-aG" not in finding.mend
