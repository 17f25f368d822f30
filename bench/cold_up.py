"""A cold `labctl up` beside the raw floor, in one run; then the lab's memory, and what `labctl down` leaves.

The floor is the same guests with the same seeds and devices under plain QEMU processes: started at once, and
ready when cloud-init is done on all of them. Its keys, disks, seeds and network are made before its clock
starts, so it is a bound that nothing which boots these guests can beat, on this machine in this minute.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from labctl.base import config, paths
from labctl.base.errors import LabError
from labctl.images import accel, store
from labctl.language import catalog
from labctl.plan import guests, plan, seed
from labctl.plan.domain import SAME_ADDRESSES, TB_CACHE_MIB, Accel

LAB = "bench"
UP_LIMIT = 1.25
"""Times the floor."""
MEMORY_LIMIT = 600
"""MiB resident for a guest of 384 MiB; each MiB that a guest has more may be resident as well."""
DOWN_LIMIT = 2.0
"""Seconds."""

# systemd may keep quiet on the console once a login shell has it, so that not every node says there that its
# cloud-init is done. Hence the question, typed into that shell; it waits for the same file as `labctl up`.
# The quotes keep the echo of what was typed from looking like the answer.
PROMPT = re.compile(rb"root@[\w-]+:~# ")
QUESTION = b'until [ -e /run/cloud-init/result.json ]; do sleep 0.5; done; echo cloud-init-"done"\n'
DONE = re.compile(rb"cloud-init-done|Reached target [^\n]*cloud-init\.target")
FAILED = re.compile(rb"labctl: the step \S+ failed|Kernel panic[^\r\n]*")


def main() -> int:
    """Run the rounds, print the figures, and return the exit code."""
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        path = catalog.find(arguments.topology)
        topology = catalog.load(path)
        guest = guests.load(arguments.guest or config.load().guest or topology.guest or guests.DEFAULT)
        planned = plan.make(topology, LAB, guest)
        image = store.find(guest.name)
        accelerator, _ = accel.choose(arguments.accel)
        print_circumstances(path, planned, accelerator)
        floors: list[float] = []
        visits: list[Visit] = []
        for number in range(1, arguments.rounds + 1):
            # In turn, so that neither always finds the page cache warm.
            for what in ("floor", "lab") if number % 2 else ("lab", "floor"):
                if what == "floor":
                    floors.append(boot_floor(planned, image, accelerator, arguments.timeout))
                    show(f"round {number}: floor {floors[-1]:7.1f} s")
                else:
                    visits.append(visit_lab(path, planned, accelerator))
                    show(f"round {number}: up    {visits[-1].up:7.1f} s")
            show(f"round {number}: up is {visits[-1].up / floors[-1]:.2f} times the floor\n")
        print_summary(planned, floors, visits)
    except LabError as error:
        print(f"cold_up: {error.message}\n         {error.hint}".rstrip(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time a cold 'labctl up' against the raw floor.")
    parser.add_argument("topology", nargs="?", default="lvs-dr-keepalived", help="name or path (%(default)s)")
    parser.add_argument("--guest", help="the operating system of the nodes, as for 'labctl up'")
    parser.add_argument("--accel", choices=["auto", "kvm", "tcg"], default="auto", help="as for 'labctl up'")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="floor and lab N times, in turn")
    parser.add_argument("--timeout", type=float, default=900, metavar="S", help="seconds the floor may take")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def show(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


# ---- The floor -------------------------------------------------------------------------------------------


def boot_floor(planned: plan.Plan, image: store.Image, accelerator: Accel, limit: float) -> float:
    """Boot the plan's guests under plain QEMU; the seconds until cloud-init was done on the last of them."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, contextlib.ExitStack() as cleanup:
        directory = Path(temporary)
        keys = make_keys(planned, directory)
        for node in planned.nodes:
            write_disks(planned, node, image, keys, directory)
        enter = cleanup.enter_context(floor_network(planned))
        before = time.monotonic()
        machines = {}
        for node in planned.nodes:
            command = [*enter, *qemu_command(planned, node, image, accelerator, directory)]
            machines[node.name] = cleanup.enter_context(machine(command, directory / f"{node.name}.log"))
        wait_for_cloud_init(machines, directory, before + limit)
        return time.monotonic() - before


def make_keys(planned: plan.Plan, directory: Path) -> seed.Keys:
    """A login key and a host key per node, as a lab has them."""

    def make(name: str) -> seed.KeyPair:
        file = directory / f"{name}.key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"labctl {planned.lab}", "-f", str(file))
        return seed.KeyPair(file.read_text(), file.with_suffix(".key.pub").read_text())

    return seed.Keys(make("login"), {node.name: make(f"host.{node.name}") for node in planned.nodes})


def write_disks(planned: plan.Plan, node: plan.PlannedNode, image: store.Image, keys: seed.Keys,
                directory: Path) -> None:
    """A node's overlay over the store's image, and its seed."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image.disk),
        str(directory / f"{node.name}.qcow2"))
    (directory / f"{node.name}.iso").write_bytes(seed.iso(seed.files(planned, node, keys)))


@contextlib.contextmanager
def floor_network(planned: plan.Plan) -> Iterator[list[str]]:
    """A network namespace with a bridge per segment and a tap per interface; the words that enter it."""
    root = os.getuid() == 0
    bridges = {network.name: network.bridge for network in planned.networks}
    script = ["set -e"]
    for bridge in bridges.values():
        script += [f"ip link add {bridge} type bridge forward_delay 0", f"ip link set {bridge} up"]
    for node in planned.nodes:
        for interface in node.interfaces:
            tap, bridge = tap_name(planned, interface), bridges[interface.network]
            script += [f"ip tuntap add {tap} mode tap", f"ip link set {tap} master {bridge} up"]
    script += ["echo ready", "exec cat"]
    # cat ends with its input, so the namespace is gone even if this script is killed.
    holder = subprocess.Popen(["unshare", *([] if root else ["--map-root-user"]), "--net",
                               "sh", "-c", "\n".join(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout
        try:
            if holder.stdout.readline() != b"ready\n":
                raise LabError("The floor's network could not be made.",
                               hint="'labctl doctor' says what is missing.")
            user = [] if root else ["-U", "--preserve-credentials"]
            yield ["nsenter", "-t", str(holder.pid), *user, "-n"]
        finally:
            holder.kill()


def tap_name(planned: plan.Plan, interface: plan.Interface) -> str:
    """A name of at most 15 characters."""
    every = [candidate.mac for node in planned.nodes for candidate in node.interfaces]
    return f"tap{every.index(interface.mac)}"


def qemu_command(planned: plan.Plan, node: plan.PlannedNode, image: store.Image, accelerator: Accel,
                 directory: Path) -> list[str]:
    """The machine that labctl's domain XML describes, as a plain command line."""
    words = ["setpriv", "--pdeathsig", "KILL", emulator(), "-nodefaults", "-no-user-config",
             "-display", "none", "-machine", "pc", "-m", str(node.memory), "-smp", str(node.cpus)]
    if accelerator == "tcg":
        words += ["-accel", f"tcg,tb-size={TB_CACHE_MIB}", "-cpu", planned.guest.tcg_cpu]
    else:
        words += ["-accel", "kvm", "-cpu", "host"]
    if image.kernel and image.initrd:
        arguments = [*planned.guest.kernel_args.split(), *([SAME_ADDRESSES] if accelerator == "tcg" else [])]
        words += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", " ".join(arguments)]
    words += ["-drive", f"file={directory / node.name}.qcow2,if=virtio,format=qcow2,cache=unsafe",
              "-drive", f"file={directory / node.name}.iso,if=virtio,format=raw,readonly=on"]
    for interface in node.interfaces:
        tap = tap_name(planned, interface)
        words += ["-netdev", f"tap,id={tap},ifname={tap},script=no,downscript=no",
                  "-device", f"virtio-net-pci,netdev={tap},mac={interface.mac}"]
    return [*words,
            "-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0",
            "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]


def emulator() -> str:
    """The QEMU that is installed. Raises LabError if there is none."""
    for name in accel.EMULATORS:
        if shutil.which(name):
            return name
    raise LabError("QEMU is not installed.", hint="'labctl doctor' says what is missing.")


@contextlib.contextmanager
def machine(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A QEMU process whose serial console is its standard input and `log`."""
    with log.open("wb") as output, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output,
                                                    stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_cloud_init(machines: dict[str, subprocess.Popen[bytes]], directory: Path,
                        deadline: float) -> None:
    """Return when the consoles of all machines say that cloud-init is done. Raises LabError."""
    waiting, asked = dict(machines), set()
    while waiting:
        for name, process in list(waiting.items()):
            text = (directory / f"{name}.log").read_bytes()
            failure = FAILED.search(text)
            reason = (failure[0].decode() if failure
                      else "QEMU ended" if process.poll() is not None
                      else "it is too slow" if time.monotonic() > deadline else "")
            if reason:
                raise LabError(f"The floor's machine '{name}' did not come up: {reason}.\n{tail(text)}")
            if DONE.search(text):
                del waiting[name]
            elif name not in asked and PROMPT.search(text):
                assert process.stdin
                process.stdin.write(QUESTION)
                process.stdin.flush()
                asked.add(name)
        time.sleep(0.1)


# ---- The lab ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """A process, told from a later one of the same number by its start time."""

    pid: int
    parent: int
    start: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid}: {self.command[:80]}"


@dataclass(frozen=True)
class Visit:
    """One lab, from up to down."""

    up: float
    down: float
    memory: dict[str, int]
    """MiB resident per node, right after up."""
    left: dict[str, list[str]]
    """What there was of processes, mounts and files after down."""


def visit_lab(topology: Path, planned: plan.Plan, accelerator: Accel) -> Visit:
    """Up, a look at its memory, down, and a look at what is left, in directories of the lab's own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        home = Path(temporary)
        (home / "state").mkdir()
        (home / "run").mkdir(mode=0o700)
        environment = {"XDG_STATE_HOME": str(home / "state"), "XDG_RUNTIME_DIR": str(home / "run")}
        mounts = lab_mounts(home)
        try:
            up = labctl("up", str(topology), "--once", "--name", LAB, "--guest", planned.guest.name,
                        "--accel", accelerator, **environment)
            during = lab_processes(home)
            memory = resident_memory(during)
            down = labctl("down", LAB, **environment)
        finally:
            if any(home.glob("state/**/lab.json")):
                labctl("down", LAB, **environment)
        return Visit(up, down, memory, what_is_left(home, during, mounts))


def labctl(*words: str, **environment: str) -> float:
    """Run labctl to its end; the seconds it took. Raises LabError if it fails."""
    before = time.monotonic()
    result = subprocess.run([sys.executable, "-m", "labctl", *words], env={**os.environ, **environment},
                            stdin=subprocess.DEVNULL, capture_output=True, check=False)
    seconds = time.monotonic() - before
    if result.returncode:
        raise LabError(f"'labctl {' '.join(words)}' failed with status {result.returncode}.\n"
                       f"{tail(result.stderr)}")
    return seconds


def resident_memory(processes: list[Process]) -> dict[str, int]:
    """MiB resident per node."""
    found = {}
    for process in processes:
        node = re.search(rf"guest={LAB}\.([^,]+),", process.command)
        if node:
            status = Path(f"/proc/{process.pid}/status").read_text()
            size = status.partition("VmRSS:")[2].split()[0]
            found[node[1]] = int(size) // 1024
    return found


def lab_processes(home: Path) -> list[Process]:
    """The processes that name the lab's directories, and their descendants: the room, and SSH's masters."""
    everything = all_processes()
    found = {process for process in everything if str(home) in process.command}
    while True:
        pids = {process.pid for process in found}
        more = {process for process in everything if process.parent in pids} - found
        if not more:
            return sorted(found, key=lambda process: process.pid)
        found |= more


def all_processes() -> list[Process]:
    """Every process but the dead ones that only wait for their parent (proc(5): the fields of stat)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if fields[0] != "Z":
            found.append(Process(int(entry.name), int(fields[1]), int(fields[19]), command))
    return found


def lab_mounts(home: Path) -> set[str]:
    """The mounts outside the room that have to do with labctl."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {f"mount {line.split()[4]}" for line in lines if "labctl" in line or str(home) in line}


def what_is_left(home: Path, during: list[Process], mounts: set[str]) -> dict[str, list[str]]:
    """What of the lab is still there. A process that is gone a second later was on its way out."""
    at_once = remaining_processes(home, during)
    if at_once:
        time.sleep(1)
    later = remaining_processes(home, during)
    return {
        "processes": [f"{process}{'' if process in later else ' (gone a second later)'}"
                      for process in at_once],
        "mounts": sorted(lab_mounts(home) - mounts),
        "files": [str(path.relative_to(home)) for path in sorted(home.rglob("*"))
                  if not path.is_dir() or path.name == LAB],
    }


def remaining_processes(home: Path, during: list[Process]) -> list[Process]:
    """Those of the lab's processes that still run, whatever their parent is now."""
    known = {(process.pid, process.start) for process in [*during, *lab_processes(home)]}
    return [process for process in all_processes() if (process.pid, process.start) in known]


# ---- What is printed -------------------------------------------------------------------------------------


def print_circumstances(path: Path, planned: plan.Plan, accelerator: Accel) -> None:
    """What was measured, where, and what may disturb it."""
    print(f"Cold up of '{path.stem}': {len(planned.nodes)} nodes, {planned.guest.name}, {accelerator}, "
          f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    others = sum(process.command.partition(" ")[0].endswith(accel.EMULATORS) for process in all_processes())
    if others:
        print(f"Beware: {others} other virtual machines run here already, and disturb these figures.")
    if not any((paths.cache() / "libvirt").rglob("*.xml")):
        print("Beware: libvirt does not know QEMU's capabilities yet; the first 'up' includes asking, once.")
    show("The floor ends when cloud-init is done on every guest. 'labctl up' does more: before, keys, disks,\n"
         "seeds and a room with its libvirtd; after, SSH to every node, its units active, each VIP with its\n"
         "one holder, and an answer from each VIP to the client.\n")


def print_summary(planned: plan.Plan, floors: list[float], visits: list[Visit]) -> None:
    """The figures over all rounds, beside their limits."""
    ratios = [visit.up / floor for visit, floor in zip(visits, floors, strict=True)]
    print(f"{'':24}{'min':>9}{'median':>9}{'limit':>9}")
    for title, values, limit in (
        ("floor (s)", floors, ""),
        ("labctl up (s)", [visit.up for visit in visits], ""),
        ("up / floor", ratios, f"{UP_LIMIT:.2f}"),
        ("labctl down (s)", [visit.down for visit in visits], f"{DOWN_LIMIT:.2f}"),
    ):
        print(f"{title:24}{min(values):9.2f}{median(values):9.2f}{limit:>9}")

    print("\nResident right after up, the largest of all rounds (MiB):")
    for node in planned.nodes:
        largest = max((visit.memory.get(node.name, 0) for visit in visits), default=0)
        limit = str(MEMORY_LIMIT + max(0, node.memory - 384))
        print(f"  {node.name:22}{largest or 'not found':>9}{'':9}{limit:>9}   guest: {node.memory} MiB")

    print("\nLeft after down:")
    for kind in ("processes", "mounts", "files"):
        left = [thing for visit in visits for thing in visit.left[kind]]
        print(f"  {kind + ':':11}{'nothing' if not left else ''}")
        for thing in left:
            print(f"    {thing}")


def run(*words: str) -> None:
    """Run a program to its end. Raises LabError if it fails."""
    result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if result.returncode:
        raise LabError(f"'{' '.join(words)}' failed.\n{tail(result.stderr)}")


def tail(text: bytes) -> str:
    """The last lines, indented."""
    return "\n".join(f"    {line}" for line in text.decode(errors="replace").splitlines()[-10:])


if __name__ == "__main__":
    sys.exit(main())
