"""What the benches of the peers share: a place where nothing of the machine is touched, a disk, the clock, the row.

Each peer runs in network, mount and process namespaces of its own, with a libvirtd at the usual path. So it finds what
it would find on a machine that is set up for it; and all that it adds to such a machine can be seen, because nothing
else is there.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from labctl.images import accel, store
from labctl.machines import private_room
from labctl.plan import guests

sys.path.insert(0, str(Path(__file__).parents[2] / "tests/vm"))
import disk_image

GUEST = "debian-12"
MEMORY = 384
"""MiB of each machine: what labctl gives it."""
LIMIT = 3600
"""Seconds for one `up` to come to its end."""
PAGE = "/var/www/html/index.html"

CONFIGURE = "systemctl enable --now apache2"
"""What a peer has to do on a node, beside its name and its page. The package is in the image, as labctl has it."""

# The peers bring cloud-init's data as NoCloud or as a config drive, and describe the network in it or leave it to
# DHCP; the image's own ifupdown has no DHCP client. The slow kinds of host keys would cost each peer the same.
CLOUD = """\
datasource_list: [NoCloud, ConfigDrive]
system_info: {network: {renderers: [networkd]}}
ssh_genkeytypes: [ed25519]
"""


class Sandbox:
    """Namespaces, and the directory with all that programs in them write to disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", self.key])
        self._outer: subprocess.Popen[bytes]
        self.init = 0
        self.bare: Counter[str] = Counter()
        """What there is before anything is done."""

    @property
    def key(self) -> Path:
        """The private key that all machines get the public one of."""
        return self.home / ".ssh/id_rsa"

    @contextmanager
    def open(self, libvirt: bool) -> Iterator[None]:
        """Keep the namespaces while this lasts, with a libvirtd in them or without; then end all that is in them."""
        script = 'ip link set lo up; sleep infinity'
        if libvirt:
            # Where KVM does not work, it must not look as if it did: not every peer can be told to emulate.
            hide = "mount --bind /dev/null /dev/kvm; " if Path("/dev/kvm").exists() and accel.kvm_problem() else ""
            script = f'{hide}exec sh {Path(private_room.__file__).with_name("room-init.sh")} "$@"'
        with (self.directory / "sandbox.log").open("wb") as log:
            self._outer = subprocess.Popen(
                ["unshare", "-n", "-m", "-p", "-f", "--mount-proc", "--kill-child", "--propagation", "private",
                 "sh", "-c", script, "sh", self.directory / "room", self.directory / "cache", "/run/libvirt"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            wait(lambda: bool(children(self._outer.pid)), 60)
            self.init = children(self._outer.pid)[0]
            if libvirt:
                # Asking QEMU what it can do takes long, and happens once on a machine.
                wait(lambda: not self.call(["virsh", "capabilities"]).returncode, 300)
            self.bare = self.survey()
            yield
        finally:
            self._outer.kill()
            self._outer.wait()
            wait(lambda: not self.init or not Path(f"/proc/{self.init}").exists(), 60)

    def words(self, words: Iterable[str | Path]) -> list[str]:
        """A command as it is run inside, in the home directory there."""
        unset = [word for what in ("CONFIG", "CACHE", "STATE", "DATA") for word in ("-u", f"XDG_{what}_HOME")]
        return ["nsenter", "-t", str(self.init), "-n", "-m", "-p", "env", "-C", str(self.home), *unset,
                f"HOME={self.home}", f"TMPDIR={self.home}", *map(str, words)]

    def call(self, words: Iterable[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run a command inside, to whatever end."""
        return subprocess.run(self.words(words), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def run(self, *words: str | Path) -> str:
        """Run a command inside that has to work; what it said."""
        return run(self.words(words))

    def address(self, domain: str) -> str | None:
        """What libvirt's DHCP has given a machine."""
        said = self.call(["virsh", "-q", "domifaddr", domain]).stdout.split()
        return said[3].partition("/")[0] if len(said) > 3 else None

    def survey(self) -> Counter[str]:
        """All there is: processes, network devices, rules, libvirt's objects, files."""
        found = [f"process {name(pid)}" for pid in descendants(self.init)]
        found += [f"network device {line.split()[1].rstrip(':').partition('@')[0]}"
                  for line in self.call(["ip", "-o", "link"]).stdout.splitlines()]
        for table in ("iptables-save", "ip6tables-save"):
            rules = [line for line in self.call([table]).stdout.splitlines() if line.startswith("-A")]
            found += [f"{table.removesuffix('-save')} rule"] * len(rules)
        if self.call(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout.strip() == "1":
            found.append("IP forwarding on")
        for kind in ("net", "pool"):
            names = self.call(["virsh", "-q", f"{kind}-list", "--all", "--name"]).stdout.split()
            found += [f"libvirt {kind} {each}" for each in names]
        inside = Path(f"/proc/{self.init}/root")
        for top in (self.home, inside / "var/lib/libvirt", inside / "etc/libvirt"):
            found += [f"file {'~' if top == self.home else top.relative_to(inside)}/{path.relative_to(top)}"
                      for path in top.rglob("*") if path.is_file() or path.is_symlink()]
        return Counter(found)


@dataclass
class Peer:
    """How one tool brings machines up and removes them."""

    name: str
    up: list[str]
    down: list[list[str]]
    address: Callable[[str], str | None]
    """Of a node, as soon as it has one."""
    rights: str
    """What its user needs on a machine, as its documentation has it."""
    ssh: list[str] = field(default_factory=list)
    """Options, where the sandbox's key and the user root do not do."""
    remarks: list[str] = field(default_factory=list)


@dataclass
class Row:
    """What one tool was seen to do; seconds from the start of its command."""

    name: str
    nodes: int
    ssh: float
    """Until the last node let somebody log in."""
    configured: float
    """Until the last node had its name and served its page."""
    returned: float
    """Until the command ended."""
    teardown: float
    left: list[str]
    """What was not there before `up`, and is there after the teardown."""
    shared: list[str]
    """What it adds, while it is up, to things of which a machine has one: network, firewall, system's libvirt."""
    rights: str
    remarks: list[str]


def measure(sandbox: Sandbox, peer: Peer, nodes: list[str]) -> Row:
    """Bring it up, look at each node from the first moment on, and remove it again."""
    before = sandbox.survey()
    watches = [Watch(sandbox, peer, node) for node in nodes]
    log = sandbox.directory / "up.log"
    start = time.monotonic()
    for watch in watches:
        watch.start()
    try:
        with log.open("wb") as output:
            up = subprocess.Popen(sandbox.words(peer.up), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        if up.wait(LIMIT):
            sys.exit(f"'{' '.join(peer.up)}' failed with status {up.returncode}:\n{tail(log)}")
        returned = time.monotonic()
        for watch in watches:
            watch.join(max(0, start + LIMIT - time.monotonic()))
            if not watch.configured:
                sys.exit(f"{watch.node} was not configured within {LIMIT} s. {watch.said}\n{tail(log)}")
    finally:
        Watch.over.set()
    during = sandbox.survey()
    down = time.monotonic()
    for words in peer.down:
        sandbox.run(*words)
    teardown = time.monotonic() - down
    time.sleep(1)
    shared = Counter({thing: number for thing, number in (during - sandbox.bare).items()
                      if not thing.startswith(("process", "file ~", "network device vnet"))})
    return Row(peer.name, len(nodes), max(watch.reached for watch in watches) - start,
               max(watch.configured for watch in watches) - start, returned - start, teardown,
               listed(sandbox.survey() - before), listed(shared), peer.rights, peer.remarks)


class Watch(threading.Thread):
    """Asks for a node's address, logs in as soon as it can, and waits there for the name and the page."""

    over = threading.Event()

    def __init__(self, sandbox: Sandbox, peer: Peer, node: str) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.said = "It had no address."
        self.reached = self.configured = 0.0
        self._sandbox, self._peer = sandbox, peer
        Watch.over.clear()

    def run(self) -> None:
        """See the class."""
        served = f"curl -s http://localhost/ | grep -qx {self.node}"
        while not self.configured and not self.over.is_set():
            address = self._peer.address(self.node)
            if address and not self.reached and self._log_in(address, "true"):
                self.reached = time.monotonic()
            if address and self.reached and self._log_in(
                    address, f'until [ "$(hostname)" = {self.node} ] && {served}; do sleep 0.3; done'):
                self.configured = time.monotonic()
            self.over.wait(0.5)

    def _log_in(self, address: str, command: str) -> bool:
        options = self._peer.ssh or ["-i", str(self._sandbox.key), "-o", "User=root", "-o", "StrictHostKeyChecking=no",
                                     "-o", "UserKnownHostsFile=/dev/null"]
        # An answer may be long in coming from a machine that boots on a busy one.
        result = self._sandbox.call(["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-o",
                                     "ServerAliveInterval=20", *options, address, command])
        self.said = f"ssh said: {result.stderr.strip()}"
        return not result.returncode


# ---- The disk ---------------------------------------------------------------------------------------------


def write_disk(target: Path, user_data: str | None = None) -> None:
    """Write labctl's image as a disk that the BIOS boots, and that takes cloud-init's data from the peers' sources.

    With `user_data` it has its own, as a box has that nobody configures from outside.
    """
    files = {"/etc/cloud/cloud.cfg.d/peers.cfg": CLOUD}
    changes = ("symlink /etc/systemd/system/multi-user.target.wants/systemd-networkd.service "
               "/lib/systemd/system/systemd-networkd.service\n")
    if user_data is not None:
        changes += "".join(f"mkdir /var/lib/cloud{below}\n" for below in ("", "/seed", "/seed/nocloud"))
        files |= {"/var/lib/cloud/seed/nocloud/user-data": user_data,
                  "/var/lib/cloud/seed/nocloud/meta-data": "instance-id: box\n"}
    with tempfile.TemporaryDirectory() as directory:
        for number, (path, content) in enumerate(files.items()):
            file = Path(directory, str(number))
            file.write_text(content)
            changes += f"write {file} {path}\n"
        arguments = guests.load(GUEST).kernel_args.replace("/dev/vda", "/dev/vda1")
        disk_image.write(store.find(GUEST), arguments, target, changes)


# ---- What is printed --------------------------------------------------------------------------------------


def main(about: str, bench: Callable[[Path, list[str]], list[Row]]) -> None:
    """Run a bench in a directory of its own and print what it found."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--nodes", type=int, default=5, metavar="N", help="machines (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args()
    if os.getuid():
        sys.exit("This needs root, to make namespaces in which the peers find the libvirt of a whole machine.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="peers-") as directory:
        rows = bench(Path(directory), [f"node{number}" for number in range(1, arguments.nodes + 1)])
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(f"{os.cpu_count()} processors, load before: {load:.1f}\n")
    print("| | nodes | ssh to all | configured | command returned | teardown |\n|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.nodes} | {row.ssh:.1f} s | {row.configured:.1f} s | {row.returned:.1f} s | "
              f"{row.teardown:.1f} s |")
    for row in rows:
        print(f"\n{row.name}")
        print(f"  rights on a machine: {row.rights}")
        for title, things in (("left after teardown", row.left), ("shared with the machine while up", row.shared),
                              ("remarks", row.remarks)):
            print(f"  {title}:{'' if things else ' nothing'}")
            for thing in things:
                print(f"    {thing}")


def listed(things: Counter[str]) -> list[str]:
    """Each thing, and how many of it there are over all nodes."""
    alike: Counter[str] = Counter()
    for thing, number in things.items():
        alike[re.sub(r"(domain-\d+-)?node\d+", "NODE", thing)] += number
    return [f"{thing}{f' × {number}' if number > 1 else ''}" for thing, number in sorted(alike.items())]


# ---- Small things -----------------------------------------------------------------------------------------


def run(words: Iterable[str | Path]) -> str:
    """Run a program that has to work; what it said."""
    command = [str(word) for word in words]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=True).stdout
    except FileNotFoundError:
        sys.exit(f"'{command[0]}' is not installed; see bench/README.md.")
    except subprocess.CalledProcessError as error:
        sys.exit(f"'{' '.join(command)}' failed with status {error.returncode}:\n{error.stdout}")


def wait(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for something that is sure to come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit("The namespaces or their libvirtd did not start or end in time.")
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Of a process, by all its threads; none if it is gone."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, file.read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Of a process, without itself; orphans are the namespace's first process's."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def name(pid: int) -> str:
    """What a process runs."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "that ended"


def tail(log: Path) -> str:
    """The last lines of a file."""
    return "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-20:])
