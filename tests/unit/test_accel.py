"""labctl.images.accel: the probe's machine code, and what is made of its answer."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from labctl.base import namespace, paths
from labctl.base.errors import LabError
from labctl.images import accel

CODE = accel._BOOT_CODE
ORIGIN = 0x7C00


def at(address: int, length: int) -> bytes:
    """Bytes of the boot sector by the address that the BIOS loads them to."""
    return CODE[address - ORIGIN:address - ORIGIN + length]


def test_the_code_fits_a_boot_sector() -> None:
    assert len(CODE) <= 510


def test_the_tables_are_where_the_code_looks_for_them() -> None:
    lgdt = CODE.index(bytes.fromhex("660f0116"))
    operand = int.from_bytes(CODE[lgdt + 4:lgdt + 6], "little")
    limit, table = int.from_bytes(at(operand, 2), "little"), int.from_bytes(at(operand + 2, 4), "little")
    assert limit == 2 * 8 - 1
    assert at(table, 8) == bytes(8), "the first descriptor has to be null"
    code = at(table + 8, 8)
    assert code[5] == 0x9A, "present, ring 0, code, readable"
    assert code[6] & 0x60 == 0x20, "a 64-bit segment: L set, D clear"


def test_the_jump_goes_to_the_64_bit_code_by_its_descriptor() -> None:
    lgdt = CODE.index(bytes.fromhex("660f0116"))
    jump = CODE[lgdt + 6:lgdt + 11]
    assert jump[0] == 0xEA
    target, selector = int.from_bytes(jump[1:3], "little"), int.from_bytes(jump[3:5], "little")
    assert target == ORIGIN + lgdt + 11
    assert selector == 8
    assert at(target, 2) == bytes.fromhex("48b8"), "movabs rax: only a 64-bit processor takes it"
    value = int.from_bytes(at(target + 2, 8), "little") >> 32
    assert 2 * value + 1 == accel._PASSED


@dataclass
class Machine:
    """A machine with /dev/kvm and QEMU, and what comes of the guest that tries them."""

    device: Path
    qemu: Path
    status: int | None = accel._PASSED
    said: str = ""
    tried: int = 0

    def attempt(self, argv: list[str | Path], _: float) -> tuple[int | None, str]:
        """In the place of namespace.attempt."""
        assert argv[0] == "as a machine"
        self.tried += 1
        return self.status, self.said


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One on which KVM works."""
    made = Machine(tmp_path / "kvm", tmp_path / "qemu")
    for path in (made.device, made.qemu):
        path.touch()
    monkeypatch.setattr(accel, "_DEVICE", made.device)
    monkeypatch.setattr(accel, "emulator", lambda: str(made.qemu) if made.qemu.exists() else None)
    monkeypatch.setattr(namespace, "kvm_group", lambda: None)
    monkeypatch.setattr(namespace, "as_machine", lambda argv: ["as a machine", *argv])
    monkeypatch.setattr(namespace, "attempt", made.attempt)
    return made


def test_tcg_is_taken_at_its_word(machine: Machine) -> None:
    assert accel.choose("tcg") == ("tcg", "")
    assert machine.tried == 0


@pytest.mark.parametrize("wanted", ["auto", "kvm"])
@pytest.mark.usefixtures("machine")
def test_kvm_that_was_seen_to_work_is_used(wanted: str) -> None:
    assert accel.choose(wanted) == ("kvm", "")


def test_kvm_that_was_seen_to_fail_is_replaced_and_said_so(machine: Machine) -> None:
    machine.status = -signal.SIGXCPU
    chosen, line = accel.choose("auto")
    assert chosen == "tcg"
    assert "a 64-bit guest does not run on it" in line
    assert "\n" not in line


def test_kvm_that_was_asked_for_and_fails_is_an_error(machine: Machine) -> None:
    machine.device.unlink()
    with pytest.raises(LabError, match="KVM does not work here: there is no /dev/kvm") as caught:
        accel.choose("kvm")
    assert "--accel tcg" in caught.value.hint


@pytest.mark.parametrize(("status", "said"), [
    (accel._PASSED, ""),
    (-signal.SIGXCPU, ""),
    (0, ""),
    (-signal.SIGABRT, "qemu: error: failed to set MSR\nqemu: kvm.c:3183: kvm_buf_set_msrs: Assertion failed."),
    (None, "KVM internal error. Suberror: 1"),
])
def test_what_a_guest_showed_is_remembered(machine: Machine, status: int | None, said: str) -> None:
    machine.status, machine.said = status, said
    first = accel.kvm_problem()
    assert (first == "") == (status == accel._PASSED)
    machine.status = 1
    assert accel.kvm_problem() == first
    assert machine.tried == 1
    assert len(list(paths.cache().glob("kvm-*"))) == 1


@pytest.mark.parametrize(("status", "said", "problem"), [
    (None, "", "a 64-bit guest does not run on it"),
    (-signal.SIGKILL, "", "a 64-bit guest does not run on it"),
    (1, "qemu: Cannot set up guest memory: Cannot allocate memory", "a 64-bit guest does not run on it"),
    (1, "Could not access KVM kernel module: Permission denied", "machines of a lab may not open /dev/kvm"),
    (127, "sh: 1: exec: qemu: not found", "a 64-bit guest does not run on it"),
])
def test_that_it_could_not_be_tried_is_not_remembered(
    machine: Machine, status: int | None, said: str, problem: str,
) -> None:
    machine.status, machine.said = status, said
    assert accel.kvm_problem() == problem
    machine.status = accel._PASSED
    machine.said = ""
    assert accel.kvm_problem() == ""


def test_qemu_that_is_installed_later_is_tried(machine: Machine) -> None:
    machine.qemu.unlink()
    assert accel.kvm_problem() == "QEMU is not installed"
    machine.qemu.touch()
    assert accel.kvm_problem() == ""


@pytest.mark.parametrize("file", ["device", "qemu"])
def test_another_device_or_program_is_tried_anew(machine: Machine, file: str) -> None:
    machine.status = -signal.SIGXCPU
    assert accel.kvm_problem()
    path: Path = getattr(machine, file)
    path.unlink()
    os.utime(path.parent)
    path.write_text("new")
    os.utime(path, (1, 1))
    machine.status = accel._PASSED
    assert accel.kvm_problem() == ""


def test_without_a_namespace_it_cannot_be_tried(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise LabError("The file '/etc/subuid' has no subordinate ids for 'alice'.")

    monkeypatch.setattr(namespace, "attempt", refuse)
    assert accel.kvm_problem() == "a private room, to try it in, cannot be made"
    assert machine.tried == 0
