"""The local package source of the guests that have yum: what the step leaves, used by Debian's dnf.

yum is dnf by another name since EL 8; what centos-7's own one does with the same file, only a real centos-7 shows.
"""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import rendered
from test_recipes import dry

from labctl.base.resources import IMAGES
from labctl.plan import guests
from labctl.plan.steps import Step, apply_script, undo_script

GUESTS = [guest for guest in map(guests.load, guests.names()) if guest.family == "redhat"]

# The system that commands run in, made for each anew: the machine's programs with the unpacked ones between them, and
# nothing else. Its network is a lab's at its worst: there is a way out, and nobody at its end.
SYSTEM = """\
mount -t tmpfs system "$1"
mkdir "$1/usr" "$1/dev" "$1/proc" "$1/tmp" "$1/root"
cp -P /bin /sbin /lib* "$1"
mount -t overlay -o "lowerdir=$2/usr:/usr" system "$1/usr"
mount --rbind /dev "$1/dev"
mount --rbind /proc "$1/proc"
cp -r "$3/." "$1"
ip link set lo up
ip link add eth0 type bridge
ip address add 10.10.10.12/24 dev eth0
ip link set eth0 up
ip route add default via 10.10.10.11
ip neighbour add 10.10.10.11 lladdr 02:00:00:00:00:01 dev eth0
exec chroot "$1" env -i HOME=/root PATH=/programs:/usr/bin:/usr/sbin sh -e -c "$4"
"""
# systemd's part, which is to mount the disk where the unit says.
SYSTEMCTL = """\
#!/bin/sh
[ "$*" != daemon-reload ] || exit 0
where=$(sed -n 's/^Where=//p' "/etc/systemd/system/$3")
case $1 in
    enable) mkdir -p "$where" && mount --bind /repository "$where" ;;
    disable) umount "$where" ;;
esac
"""
# By default dnf tries ten times, for 30 s each. The address is one that documentation has for itself.
STOCK = """\
[base]
name=A mirror
baseurl=http://192.0.2.1/
gpgcheck=0
timeout=1
retries=1
"""
SPEC = """\
Name: {name}
Version: 1
Release: 1
Summary: Nothing
License: None
BuildArch: noarch
{more}
%description
%files
"""
BUILD = """\
rpmbuild -bb --quiet --define '_topdir /tmp' --define '_rpmdir /tmp' /*.spec
mv /tmp/noarch/*.rpm /repository
make-repository
"""
REMOVAL = "find /etc/yum.repos.d "
"""How the command begins that takes the stock repositories away."""

Run = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a script in a system with a repository as the recipe makes it: lrzsz, and gcc, which it requires here."""
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (command,) = re.findall("createrepo -.*\n", dry(IMAGES / "centos-7.sh", "sh", recipe).stdout)
    files = tmp_path / "files"
    for path, content in {
        "programs/systemctl": SYSTEMCTL,
        "programs/make-repository": command,
        "programs/sync": "#!/bin/sh\n",  # Nothing here has to outlast a crash.
        "etc/yum.repos.d/stock.repo": STOCK,
        "lrzsz.spec": SPEC.format(name="lrzsz", more="Requires: gcc"),
        "gcc.spec": SPEC.format(name="gcc", more=""),
    }.items():
        (files / path).parent.mkdir(parents=True, exist_ok=True)
        (files / path).write_text(content)
        (files / path).chmod(0o755)
    (files / "programs/yum").symlink_to("/usr/bin/dnf")
    (files / "programs/createrepo").symlink_to("/usr/bin/createrepo_c")
    (files / "repository").mkdir()
    (tmp_path / "system").mkdir()
    rendered.unpacked("usr/bin/dnf")

    def in_system(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*rendered.unshare("-m", "-n"), "sh", "-e", "-c", SYSTEM, "sh", tmp_path / "system",
                               rendered.PROGRAMS, files, BUILD + script],
                              capture_output=True, text=True, check=False)

    return in_system


def step_of(guest: guests.Guest) -> Step:
    """The step that makes the media the only source; it is the same on all nodes."""
    found = [step for lab, node in rendered.nodes() if lab.guest.name == guest.name
             for step in node.steps if step.kind == "base/packages"]
    assert len({apply_script(step) for step in found}) == 1
    return found[0]


def without_removal(step: Step) -> Step:
    """The step, leaving the stock repositories where they are."""
    left = [command for command in step.runcmd if not command.startswith(REMOVAL)]
    assert len(left) == len(step.runcmd) - 1
    return step.model_copy(update={"runcmd": left})


def repositories(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The names in a list of repositories, which follows a line of dashes."""
    assert done.returncode == 0, done.stderr
    return [line.split()[0] for line in done.stdout.partition("-----\n")[2].splitlines()[1:]]


def attempt(guest: guests.Guest) -> str:
    """Looks for a package, for no longer than the check in a lab does, and shows the transfers that were tried."""
    return (f"code=0\ntimeout 60 sh -c '{guest.facts['find_package']}' || code=$?\n"
            "cat /var/log/dnf.librepo.log\nexit $code\n")


LIST = "echo -----\nyum -q repolist\n"
INSTALL = "yum -y -q install lrzsz\nrpm -q --queryformat '%{NAME}\\n' lrzsz gcc\n"
TIMEOUT = "Timeout was reached"
"""What dnf writes down once it has waited for a server in vain."""

each_guest = pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.name)


@each_guest
def test_the_media_are_the_only_repository(guest: guests.Guest, run: Run) -> None:
    assert repositories(run(apply_script(step_of(guest)) + LIST)) == ["media"]


@each_guest
def test_without_the_removal_there_is_another(guest: guests.Guest, run: Run) -> None:
    assert repositories(run(apply_script(without_removal(step_of(guest))) + LIST)) == ["base", "media"]


@each_guest
def test_the_guest_finds_what_is_there_and_nothing_else(guest: guests.Guest, run: Run) -> None:
    find = guest.facts["find_package"]
    apply = apply_script(step_of(guest))
    found = run(apply + find)
    assert found.returncode == 0, found.stderr
    assert re.search(r"^lrzsz\.noarch +1-1 +media *$", found.stdout, re.MULTILINE)
    other = run(apply + find.replace("lrzsz", "no-such-package"))
    assert (other.returncode, other.stdout) == (1, "")
    assert "No matching Packages" in other.stderr


@each_guest
def test_a_package_is_installed_with_what_it_requires(guest: guests.Guest, run: Run) -> None:
    done = run(apply_script(step_of(guest)) + INSTALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["lrzsz", "gcc"]


@each_guest
def test_what_it_requires_has_to_be_on_the_media(guest: guests.Guest, run: Run) -> None:
    done = run("rm /repository/gcc-*.rpm\nmake-repository\n" + apply_script(step_of(guest)) + INSTALL)
    assert done.returncode == 1
    assert "nothing provides gcc" in done.stderr


@each_guest
def test_without_the_media_it_fails_and_waits_for_nothing(guest: guests.Guest, run: Run) -> None:
    done = run(apply_script(step_of(guest)) + "umount /mnt/cdrom\n" + attempt(guest))
    assert done.returncode == 1, done.stderr
    assert "Couldn't read a file:// file for file:///mnt/cdrom/" in done.stdout
    assert TIMEOUT not in done.stdout


@each_guest
def test_without_the_removal_it_waits(guest: guests.Guest, run: Run) -> None:
    done = run(apply_script(without_removal(step_of(guest))) + attempt(guest))
    assert done.returncode == 1, done.stderr
    assert TIMEOUT in done.stdout


@each_guest
def test_once_undone_there_is_no_source(guest: guests.Guest, run: Run) -> None:
    step = step_of(guest)
    done = run(apply_script(step) + undo_script(step) + "ls /mnt/cdrom\n" + guest.facts["find_package"])
    assert (done.returncode, done.stdout) == (1, "")
    assert "No matching Packages" in done.stderr
