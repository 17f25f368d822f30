"""labctl.images.accel: the probe's machine code, and what is made of its answer."""

from pathlib import Path

import pytest

from labctl.base import paths
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


def remember(problem: str) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    paths.cache().mkdir(parents=True)
    (paths.cache() / f"kvm-{boot}").write_text(problem)


def test_tcg_is_taken_at_its_word() -> None:
    assert accel.choose("tcg") == ("tcg", "")


@pytest.mark.parametrize("wanted", ["auto", "kvm"])
def test_kvm_that_was_seen_to_work_is_used(wanted: str) -> None:
    remember("")
    assert accel.choose(wanted) == ("kvm", "")


def test_kvm_that_was_seen_to_fail_is_replaced_and_said_so() -> None:
    remember("a 64-bit guest does not run on it")
    chosen, line = accel.choose("auto")
    assert chosen == "tcg"
    assert "a 64-bit guest does not run on it" in line
    assert "\n" not in line


def test_kvm_that_was_asked_for_and_fails_is_an_error() -> None:
    remember("there is no /dev/kvm")
    with pytest.raises(LabError, match="KVM does not work here: there is no /dev/kvm") as caught:
        accel.choose("kvm")
    assert "--accel tcg" in caught.value.hint
