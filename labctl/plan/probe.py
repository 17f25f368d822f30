"""What labctl assumes about a guest, and the commands that test it on a node. Pure.

All names come from the guest's facts, the plan, and the steps of labs.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from labctl.language.services.ipvs import Ipvs
from labctl.plan.guests import Guest
from labctl.plan.plan import Plan
from labctl.plan.steps import Step

CONSOLE_LINE = "labctl: does the serial console answer?"
"""The line that one of the probes writes to the serial console."""
_PROBE_SECONDS = 90
"""The most time for one command, on an emulated node."""
_TOOLS = ("bash", "curl", "arping", "tcpdump", "nc")
"""The programs that checks and the last gate use on nodes."""
_ENABLE = re.compile(r"systemctl enable (?:--now )?([\w@.-]+)")

# How to test that a fact's path exists. For files that steps or daemons write, the directory has to exist.
_PROGRAM = ("[ -x {} ]", "is there")
_DIRECTORY = ("[ -d {} ]", "is there")
_PLACE = ('[ -d "$(dirname {})" ]', "its directory is there")
_PATHS = {
    "python": _PROGRAM, "iptables": _PROGRAM,
    "docroot": _DIRECTORY, "httpd_conf": _DIRECTORY, "heartbeat_conf": _DIRECTORY, "heartbeat_tools": _DIRECTORY,
    "ipvs_rules": _PLACE, "ntp_conf": _PLACE, "ntp_drift": _PLACE,
}
_VERSION = {
    "debian": "dpkg-query -W -f '${{Version}}' {} | sed 's/^[0-9]*://'",
    "redhat": "rpm -q --qf '%{{VERSION}}' {}",
}
SOURCES = {
    "debian": ("cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep '^[^#]'",
               "deb [trusted=yes] file:/mnt/cdrom ./"),
    "redhat": ("ls /etc/yum.repos.d", "media.repo"),
}
"""By family: a command that lists the package sources, and the only one it should list."""
_LISTENS = "nginx -T 2>/dev/null | grep -q '^[[:space:]]*listen'"


@dataclass(frozen=True)
class Probe:
    """An assumption: what a shell command prints on a node."""

    what: str
    command: str
    expected: str
    """What the command should print, with each run of white space as one space."""
    at_least: bool = False
    """Whether more may follow, after a character that is neither a letter nor a digit, as in versions."""

    def holds(self, seen: str) -> bool:
        """Whether the command printed what it should."""
        begin = re.match(re.escape(self.expected) + r"(?![0-9A-Za-z])", seen)
        return seen == self.expected or bool(self.at_least and begin)


def probes(plan: Plan, guest: Guest, steps: Iterable[Step]) -> list[Probe]:
    """The probes for the only node of `plan`, which runs `guest`; `steps` are all that labs use on this guest."""
    return [*_identity(plan), *_system(), *_packages(guest), *_versions(guest), *_facts(guest), *_units(steps)]


def script(asked: Sequence[Probe]) -> str:
    """A shell script that prints a line for each probe."""
    return "".join(f"printf '%s\\n' \"$(timeout {_PROBE_SECONDS} sh -c {shlex.quote(probe.command)} 2>&1 </dev/null | "
                   "tr '\\n' ' ')\"\n" for probe in asked)


def answers(output: str) -> list[str]:
    """The output of each probe in a script's output."""
    return [" ".join(line.split()) for line in output.splitlines()]


def _identity(plan: Plan) -> Iterator[Probe]:
    node, = plan.nodes
    yield Probe("host name", "uname -n", node.name)
    for interface in node.interfaces:
        yield Probe(f"interface {interface.name}",
                    f"cat /sys/class/net/{interface.name}/address; "
                    f"ip -o -4 address show dev {interface.name} | awk '{{ print $4 }}'",
                    f"{interface.mac} {interface.address}/{interface.prefix}")


def _system() -> Iterator[Probe]:
    schedulers = " ".join(f"ip_vs_{name}" for name in get_args(Ipvs.model_fields["scheduler"].annotation))
    yield Probe("clock", "off=$(($(date +%s) - $(cat /sys/class/rtc/rtc0/since_epoch))); "
                         'if [ "${off#-}" -le 5 ]; then echo right; else echo "$off s off"; fi', "right")
    yield Probe("SELinux", "mode=$(getenforce 2>/dev/null || echo absent); "
                           'if [ "$mode" = Enforcing ]; then echo enforces; else echo "does not enforce ($mode)"; fi',
                "does not enforce", at_least=True)
    yield Probe("IPVS and its schedulers", f"modprobe -a ip_vs {schedulers} && echo loaded", "loaded")
    yield Probe("tunnels", "modprobe ipip && echo loaded", "loaded")
    yield Probe("serial console", f"echo {shlex.quote(CONSOLE_LINE)} >/dev/ttyS0; "
                                  "systemctl show -p ActiveState serial-getty@ttyS0.service", "ActiveState=active")
    yield Probe("tools of the checks",
                f"for tool in {' '.join(_TOOLS)}; do command -v $tool >/dev/null || missing=\"$missing $tool\"; done; "
                'echo "${missing:-all there}"', "all there")


def _packages(guest: Guest) -> Iterator[Probe]:
    command, expected = SOURCES[guest.family]
    yield Probe("package sources", command, expected)
    yield Probe("a package that is not installed", f"({guest.facts['find_package']}) >/dev/null && echo found", "found")


def _versions(guest: Guest) -> Iterator[Probe]:
    for package, version in guest.versions.items():
        yield Probe(f"package {package}", _VERSION[guest.family].format(package), version, at_least=True)


def _facts(guest: Guest) -> Iterator[Probe]:
    for fact, (test, there) in _PATHS.items():
        if fact in guest.facts:
            path = guest.facts[fact].split()[0]
            yield Probe(f"{fact} {path}", f"if {test.format(path)}; then echo {there}; else echo is missing; fi", there)
    retry = guest.facts["keepalived_http_retry"]
    yield Probe(f"keepalived knows '{retry}'", f'grep -aqw {retry} "$(command -v keepalived)" && echo yes', "yes")
    yield Probe("nginx without its packaged site",
                f"{_LISTENS} || echo there is none; {guest.facts['nginx_drop_packaged_site']}; "
                f"nginx -t -q && if {_LISTENS}; then echo is still there; else echo is gone; fi", "is gone")


def _units(steps: Iterable[Step]) -> Iterator[Probe]:
    units: set[str] = set()
    for step in steps:
        own = {file.path.rpartition("/")[2].removesuffix(".service") for file in step.write_files}
        units |= {unit for command in step.runcmd for unit in _ENABLE.findall(command)} - own
    for unit in sorted(units):
        # For a unit that is not loaded, 'is-active' prints "unknown" in systemd 219, "inactive" in later versions.
        yield Probe(f"unit {unit}", f"systemctl is-enabled {unit}; systemctl show -p ActiveState {unit}",
                    "disabled ActiveState=inactive")
