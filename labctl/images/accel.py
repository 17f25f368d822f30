"""Whether hardware acceleration works, found out by running a small guest, since a /dev/kvm alone proves nothing."""

import hashlib
import shutil
import signal
import tempfile
from pathlib import Path

from labctl.base import namespace, paths
from labctl.base.errors import LabError
from labctl.base.machine import boot_id
from labctl.plan.domain import Accel

EMULATORS = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")
"""QEMU's usual name, and its path on Enterprise Linux."""
NOT_ALLOWED = "machines of a lab may not open /dev/kvm"
NO_QEMU = "QEMU is not installed"
UNTRIED = "a private room, to try it in, cannot be made"
_DEVICE = Path("/dev/kvm")
_IN_TIME = 'ulimit -c 0; ulimit -t 2; exec "$@"'
"""Limits QEMU to 2 s of processor time. A working KVM needs a tenth of that; one that emulates every instruction, which
is no acceleration, needs more."""
_WAIT_SECONDS = 10
"""The time that these 2 s may take on a busy machine."""
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
    """The accelerator for `auto`, `kvm` or `tcg`, and a line for the user if `auto` has to do without KVM.

    Raises LabError if `wanted` is `kvm` and KVM does not work.
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
    """The factor by which deadlines are longer than with KVM."""
    return 1 if accel == "kvm" else _TCG_SLOWNESS


def kvm_problem() -> str:
    """Why machines of a lab cannot use KVM; empty if they can.

    What a guest has shown is remembered until the host restarts, or /dev/kvm or QEMU changes. If KVM could not be
    tried, nothing is remembered.
    """
    qemu = emulator()
    if not _DEVICE.exists():
        return "there is no /dev/kvm"
    if not qemu:
        return NO_QEMU
    memo = _memo(qemu)
    if memo.exists():
        return memo.read_text()
    problem, shown = _try(qemu)
    if shown:
        memo.parent.mkdir(parents=True, exist_ok=True)
        for old in memo.parent.glob("kvm-*"):
            old.unlink(missing_ok=True)
        memo.write_text(problem)
    return problem


def emulator() -> str | None:
    """The path of QEMU's program; None if it is not installed."""
    return next(filter(None, map(shutil.which, EMULATORS)), None)


def _memo(qemu: str) -> Path:
    device, program = _DEVICE.stat(), Path(qemu).stat()
    # The time of the last change also covers changes of owner, mode and access list.
    what = f"{boot_id()} {device.st_ctime_ns} {namespace.kvm_group()} {qemu} {program.st_mtime_ns}"
    return paths.cache() / f"kvm-{hashlib.sha256(what.encode()).hexdigest()[:16]}"


def _try(qemu: str) -> tuple[str, bool]:
    """Run a guest with a machine's rights; returns what is wrong with KVM, and whether the guest showed it."""
    with tempfile.TemporaryDirectory(prefix="labctl-") as directory:
        disk = Path(directory) / "probe.img"
        disk.write_bytes(_BOOT_CODE.ljust(510, b"\0") + b"\x55\xaa")
        for path, mode in ((disk, 0o644), (disk.parent, 0o711)):
            path.chmod(mode)
        argv = [qemu, "-accel", "kvm", "-cpu", "host", "-m", "32", "-nodefaults", "-no-user-config", "-display", "none",
                "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
                "-drive", f"file={disk},format=raw,readonly=on"]
        try:
            status, said = namespace.attempt(namespace.as_machine(["sh", "-c", _IN_TIME, "sh", *argv]), _WAIT_SECONDS)
        except LabError:
            return UNTRIED, False
    if status == _PASSED:
        return "", True
    if "Permission denied" in said:
        return NOT_ALLOWED, False
    # The guest used up its time, or restarted, or KVM failed; QEMU then aborts, or stops the guest for good.
    shown = status in (-signal.SIGXCPU, 0) or (status in (-signal.SIGABRT, None) and "kvm" in said.lower())
    return "a 64-bit guest does not run on it", shown
