"""Is there hardware acceleration that works? Found out by running a guest, not by looking at /dev/kvm."""

import shutil
import tempfile
from pathlib import Path

from labctl.base import paths
from labctl.base.errors import LabError
from labctl.base.process import CommandError, run
from labctl.plan.domain import Accel

EMULATORS = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")
"""QEMU's usual name, and where Enterprise Linux hides it."""
_LIMIT = 2.0
"""Seconds; a working KVM needs a tenth of it. One that emulates every instruction is no acceleration."""
_TCG_SLOWNESS = 8
_PASSED = 85
"""QEMU's exit status when the guest writes 42 to isa-debug-exit: 2 × 42 + 1."""

# A boot sector: enable paging with one 2 MiB page, enter long mode (AMD64 manual, volume 2, section 14.6),
# compute 42 in a 64-bit register, and write it to port 0xf4.
_BOOT_CODE = bytes.fromhex(
    "fa 31c0 8ed8"                                  # cli; ax = ds = 0
    "66c706001003200000"                            # PML4[0] at 0x1000 -> 0x2000
    "66c706002003300000"                            # PDPT[0] at 0x2000 -> 0x3000
    "66c706003083000000"                            # PD[0]   at 0x3000: 2 MiB at 0
    "66b8a0000000 0f22e0"                           # CR4 = PAE | PGE
    "66b800100000 0f22d8"                           # CR3 = 0x1000
    "66b9800000c0 0f32 660d00010000 0f30"           # EFER |= LME
    "0f20c0 660d01000080 0f22c0"                    # CR0 |= PG | PE
    "660f0116807c ea597c0800"                       # lgdt [0x7c80]; jmp 8:0x7c59
    "48b8000000002a000000 48c1e820 e6f4 f4 ebfd"    # rax = 42 << 32 >> 32; out 0xf4, al; hlt
    "0f1f4000 0000000000000000 00000000009a2000"    # GDT: null, 64-bit code
    "0f00 707c0000"                                 # its limit and address
)


def choose(wanted: str) -> tuple[Accel, str]:
    """The accelerator for `auto`, `kvm` or `tcg`, and a line for the user where it is not what he hoped for.

    Raises LabError if `kvm` was asked for and does not work.
    """
    if wanted == "tcg":
        return "tcg", ""
    problem = kvm_problem()
    if not problem:
        return "kvm", ""
    if wanted == "kvm":
        raise LabError(f"KVM does not work here: {problem}.", hint="'labctl doctor' says more; '--accel tcg' emulates.")
    return "tcg", f"KVM does not work here ({problem}); emulating with TCG, about ten times slower."


def slowness(accel: Accel) -> int:
    """How many times slower than with KVM a guest may be before we give up on it: a factor on deadlines."""
    return 1 if accel == "kvm" else _TCG_SLOWNESS


def kvm_problem() -> str:
    """Why KVM cannot be used, or nothing. The answer is remembered until the next boot."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    memo = paths.cache() / f"kvm-{boot_id}"
    if memo.exists():
        return memo.read_text()
    device = Path("/dev/kvm")
    if not device.exists():
        return "there is no /dev/kvm"
    try:
        device.open("r+b", buffering=0).close()
    except OSError as error:
        return f"/dev/kvm cannot be opened: {error.strerror}"
    problem = "" if _runs() else "a 64-bit guest does not run on it"
    memo.parent.mkdir(parents=True, exist_ok=True)
    for old in memo.parent.glob("kvm-*"):
        old.unlink(missing_ok=True)
    memo.write_text(problem)
    return problem


def emulator() -> str | None:
    """QEMU's program, where it is installed."""
    return next(filter(None, map(shutil.which, EMULATORS)), None)


def _runs() -> bool:
    with tempfile.TemporaryDirectory() as directory:
        disk = Path(directory) / "probe.img"
        disk.write_bytes(_BOOT_CODE.ljust(510, b"\0") + b"\x55\xaa")
        argv = [emulator() or EMULATORS[0], "-accel", "kvm", "-cpu", "host", "-m", "32", "-nodefaults",
                "-no-user-config", "-display", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
                "-drive", f"file={disk},format=raw"]
        try:
            return run(argv, check=False, timeout=_LIMIT).returncode == _PASSED
        except CommandError:
            return False
