"""Building images from bases: a machine boots once on an overlay of the base, and runs a recipe.

The machine is one QEMU process, a child of labctl, outside of any private room: there QEMU's user-mode networking needs
no privileges and gives the machine an uplink, which machines of a lab never have.

A separate disk carries the recipe and its results, and a separate serial port its output.
"""

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from labctl.base import files
from labctl.base.errors import LabError
from labctl.base.process import run, run_script
from labctl.base.wait import Deadline
from labctl.images import accel, bases
from labctl.plan.domain import Accel
from labctl.plan.guests import Guest
from labctl.plan.seed import iso as seed_iso

STEP = "==> "
"""The beginning of a line by which a recipe announces a step."""
LIBRARY = "customise.sh"
"""The shell functions that recipes share; a file beside them."""
_MEMORY_MIB = 1536
_DISK_GIB = 10
"""The smallest disk of an image; cloud-init grows the file system if it can."""
_WORK_GIB = 8
_FREE_BYTES = 256 * 2**20
"""With less free space the build fails; on a full disk QEMU would pause the machine and wait."""
_BEGIN_SECONDS = 120
_END_SECONDS = 2400
_ADDRESS, _GATEWAY, _RESOLVER = "10.0.2.15/24", "10.0.2.2", "10.0.2.3"
"""The addresses of QEMU's user-mode network (QEMU's manual, 'Using the user mode network stack')."""
_MAC = "52:54:00:00:02:0f"

_USER_DATA = """\
#!/bin/sh
# Programs start faster under TCG without address space randomisation.
echo 0 >/proc/sys/kernel/randomize_va_space
setenforce 0 2>/dev/null
mkdir /run/labctl
mount LABEL=labctl /run/labctl
systemd-run --unit=labctl-build sh /run/labctl/begin
"""
_BEGIN = """\
exec </dev/null >/dev/ttyS1 2>&1
echo 'The machine is up.'
# Wait for cloud-init: its last actions would undo a part of the recipe's sealing.
until [ -e /run/cloud-init/result.json ]; do sleep 1; done
echo 'nameserver {resolver}' >/etc/resolv.conf
cd /run/labctl
if {environment} sh {recipe}; then touch out/done; fi
sync
systemctl poweroff
"""


class RecipeError(LabError):
    """A recipe failed; its log says why."""


def customise(guest: Guest, base: bases.Base, recipe: Path, environment: Mapping[str, str], iso: Path | None,
              home: Path, log: Path, say: Callable[[str], None]) -> None:
    """Run `recipe` on `base` and put its results into `home`: disk.qcow2, packages.txt, and media.img if the recipe
    makes a package repository.

    The recipe runs with `environment`, and finds the disc `iso` in the variable ISO. Its output goes to `log`, the
    console's to a file beside it. Raises RecipeError if the recipe fails, and LabError if the machine does not come up,
    takes too long, or fills the disk.
    """
    accelerator, remark = accel.choose("auto")
    if remark:
        say(remark)
    console = console_of(log)
    for file in (log, console):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    machine = home / "machine"
    machine.mkdir()
    _overlay(base, machine)
    _work_disk(recipe, {**environment, **({"ISO": "/dev/disk/by-id/virtio-iso"} if iso else {})}, machine)
    (machine / "seed.iso").write_bytes(_seed(guest))
    watch = Watch(guest, machine, log, console, accel.slowness(accelerator), say)
    with log.open("ab") as output:
        status = run_script(_command(guest, machine, iso, accelerator, log, console), output, {}, watch)
    if status:
        raise RecipeError(f"QEMU ended with status {status}.")
    watch.must_have_begun()
    results = machine / "results"
    results.mkdir()
    run(["debugfs", "-R", f"rdump /out {shlex.quote(str(results))}", machine / "work.img"], check=False)
    out = results / "out"
    if not (out / "done").exists():
        raise RecipeError("The recipe failed.")
    shutil.copyfile(out / "packages.txt", home / "packages.txt")
    if (out / "repository").is_dir():
        _media(out / "repository", home / "media.img")
    run(["qemu-img", "convert", "-O", "qcow2", machine / "overlay.qcow2", home / "disk.qcow2"])
    shutil.rmtree(machine)


def console_of(log: Path) -> Path:
    """The log of the machine's console, which is beside the recipe's."""
    return log.with_suffix(".console.log")


def said(log: Path) -> list[str]:
    """The non-empty lines of a recipe's output."""
    return [line for line in log.read_text(errors="replace").splitlines() if line.strip()]


def last_step(log: Path) -> tuple[str, list[str]]:
    """The step that a recipe announced last (empty if there is none), and its output since then."""
    lines = said(log)
    place = max((number for number, line in enumerate(lines) if line.startswith(STEP)), default=-1)
    return lines[place].removeprefix(STEP) if place >= 0 else "", lines[place + 1:]


class Watch:
    """Is called while the machine runs; reports each step, and raises LabError when the build cannot succeed."""

    def __init__(self, guest: Guest, machine: Path, log: Path, console: Path, patience: float,
                 say: Callable[[str], None]) -> None:
        self._guest, self._machine, self._log, self._console, self._say = guest, machine, log, console, say
        self._begin, self._end = Deadline(_BEGIN_SECONDS * patience), Deadline(_END_SECONDS * patience)
        self._step = ""

    def __call__(self) -> None:
        """Report a new step. Raises LabError if the disk is full or the machine too late."""
        files.check_space(self._machine, _FREE_BYTES)
        step, _ = last_step(self._log)
        if step != self._step:
            self._step = step
            self._say(step)
        if self._begin.expired:
            self.must_have_begun()
        if self._end.expired:
            where = f" It was at the step '{step}'." if step else ""
            raise LabError(f"The machine that builds '{self._guest.name}' is not done after "
                           f"{self._end.seconds / 60:.0f} minutes.{where}", hint=f"The log is '{self._log}'.")

    def must_have_begun(self) -> None:
        """Raise LabError if the recipe has printed nothing so far."""
        if not said(self._log):
            lines = said(self._console)
            raise LabError(f"The machine that builds '{self._guest.name}' does not come up"
                           f"{f': {lines[-1].strip()}' if lines else '; its console is silent'}.",
                           hint=f"The console is '{self._console}'.")


def _overlay(base: bases.Base, machine: Path) -> None:
    """Make the machine's disk. The base gets a second name beside it, so that removing the first does no harm."""
    files.adopt(base.disk, machine / "base.qcow2")
    info = json.loads(run(["qemu-img", "info", "--output=json", machine / "base.qcow2"]).stdout)
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", machine / "overlay.qcow2",
         str(max(info["virtual-size"], _DISK_GIB * 2**30))])


def _work_disk(recipe: Path, environment: Mapping[str, str], machine: Path) -> None:
    """Make a file system with the recipe, free space, and a directory 'out' for its results."""
    content = machine / "work"
    (content / "out").mkdir(parents=True)
    for file in (recipe, recipe.with_name(LIBRARY)):
        shutil.copyfile(file, content / file.name)
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    (content / "begin").write_text(_BEGIN.format(resolver=_RESOLVER, environment=settings, recipe=recipe.name))
    # ext2, which old kernels can read even if it was made by a new mke2fs.
    run(["mke2fs", "-q", "-t", "ext2", "-L", "labctl", "-i", "65536", "-d", content, machine / "work.img",
         f"{_WORK_GIB}G"])


def _media(repository: Path, target: Path) -> None:
    """Make a file system, as small as possible, with a package repository."""
    size = sum(path.stat().st_size for path in repository.rglob("*"))
    run(["mke2fs", "-q", "-t", "ext2", "-m", "0", "-L", "media", "-d", repository, target,
         f"{size * 12 // 10 // 1024 + 2048}k"])


def _seed(guest: Guest) -> bytes:
    network = {"version": 1, "config": [{
        "type": "physical", "name": "eth0", "mac_address": _MAC,
        "subnets": [{"type": "static", "address": _ADDRESS, "gateway": _GATEWAY, "dns_nameservers": [_RESOLVER]}],
    }]}
    return seed_iso({"meta-data": json.dumps({"instance-id": f"labctl-build-{guest.name}"}),
                     "user-data": _USER_DATA, "network-config": json.dumps(network)})


def _command(guest: Guest, machine: Path, iso: Path | None, accelerator: Accel, log: Path,
             console: Path) -> list[str | Path]:
    """QEMU's command line."""
    return [
        accel.emulator() or accel.EMULATORS[0], "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "pc", "-accel", accelerator, "-cpu", "host" if accelerator == "kvm" else guest.tcg_cpu,
        "-smp", "2", "-m", str(_MEMORY_MIB),
        *_disk("disk", machine / "overlay.qcow2", "format=qcow2,cache=unsafe"),
        *_disk("seed", machine / "seed.iso", "format=raw,readonly=on"),
        *_disk("work", machine / "work.img", "format=raw,cache=unsafe"),
        *(_disk("iso", iso, "format=raw,readonly=on") if iso else []),
        "-netdev", "user,id=uplink", "-device", f"virtio-net-pci,netdev=uplink,mac={_MAC}",
        "-device", "virtio-rng-pci",
        *_serial("console", console), *_serial("recipe", log),
    ]


def _disk(name: str, file: Path, options: str) -> list[str]:
    return ["-drive", f"id={name},if=none,file={_escaped(file)},{options}",
            "-device", f"virtio-blk-pci,drive={name},serial={name}"]


def _serial(name: str, file: Path) -> list[str]:
    return ["-chardev", f"file,id={name},path={_escaped(file)},append=on", "-serial", f"chardev:{name}"]


def _escaped(file: Path) -> str:
    return str(file).replace(",", ",,")
