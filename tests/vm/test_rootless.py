"""The same commands as an ordinary user with subordinate ids: no root anywhere.

Run as root, the user is one that exists only in a mount namespace of the test: files bound over /etc/passwd and
/etc/subuid. Run as an ordinary user, it is that user, and every other test is rootless already.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from machines import GUEST, PATIENCE, ROOT, Labctl

from labctl.images import store

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
"""What 'su -' gives an ordinary user of Debian's: nothing of /usr/sbin."""
USER, UID = "labctl-test", 4242

BECOME = """\
set -eu
base=$1; shift
for file in passwd group subuid subgid; do
    cp /etc/$file "$base/$file"
    mount --bind "$base/$file" /etc/$file
done
echo '{user}:x:{uid}:{uid}::{home}:/bin/sh' >>/etc/passwd
echo '{user}:x:{uid}:' >>/etc/group
echo '{user}:1000000:65536' >>/etc/subuid
echo '{user}:1000000:65536' >>/etc/subgid
mknod "$base/tun" c 10 200
chmod 666 "$base/tun"
mount --bind "$base/tun" /dev/net/tun
{readable}
exec setpriv --reuid {uid} --regid {uid} --clear-groups "$@"
"""


def _readable(paths: list[Path], base: Path) -> str:
    """Commands that let everybody reach `paths`, also where they are in a directory of root's alone."""
    closed = {path: parent for path in paths for parent in path.parents if not parent.stat().st_mode & 0o001}
    aside = {path: base / f"aside{number}" for number, path in enumerate(closed)}
    return "\n".join([
        *(f"mkdir -p {aside[path]} && mount --bind {path} {aside[path]}" for path in closed),
        *(f"mount -t tmpfs -o mode=755 tmpfs {top}" for top in sorted(set(closed.values()))),
        *(f"mkdir -p {path} && mount --bind {aside[path]} {path}" for path in closed),
    ])


@pytest.mark.vm
def test_an_ordinary_user(labctl: Labctl, tiny: str, tmp_path: Path) -> None:
    if os.getuid():
        labctl("up", tiny)
        labctl("test", "tiny")
        labctl("down")
        assert labctl.leftovers() == []
        return
    base = Path("/tmp") / f"labctl-rootless-{os.getpid()}"
    home = base / "home"
    images = home / ".local/share/labctl/images"
    images.mkdir(parents=True)
    (home / "run").mkdir(mode=0o700)
    (home / "tiny.yaml").write_text(Path(tiny).read_text())
    image = store.find(GUEST)
    subprocess.run(["cp", "-a", "--reflink=auto", str(image.path), str(images)], check=True)
    (images / GUEST).symlink_to(image.path.name)
    for path in [home, *home.rglob("*")]:
        os.chown(path, UID, UID, follow_symlinks=False)
    script = tmp_path / "become.sh"
    readable = _readable([Path(sys.base_prefix), Path(sys.prefix), ROOT], base)
    script.write_text(BECOME.format(user=USER, uid=UID, home=home, readable=readable))
    python = shlex.quote(sys.executable)
    session = (f"cd {home} && labctl() {{ {python} -m labctl \"$@\"; }}; "
               "labctl doctor; labctl up tiny.yaml --guest debian-12 && labctl exec web id -u && labctl test && "
               "labctl reset && echo sockets: $(ls /tmp/labctl-$(id -u)/*) && "
               "labctl down && ls -A .local/state/labctl/labs /tmp/labctl-$(id -u) && ps -u $(id -u) -o args=")
    environment = {"HOME": str(home), "PATH": PATH, "XDG_RUNTIME_DIR": str(home / "run"),
                   "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    try:
        result = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", str(script), str(base), "sh", "-c", session],
            env=environment, capture_output=True, text=True, timeout=60 * PATIENCE, check=False)
    finally:
        subprocess.run(["rm", "-rf", str(base)], check=True)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert f"has subordinate ids for '{USER}'" in said
    assert "✓ namespaces" in said
    assert "0 failed" in said
    sockets = re.findall(r"^sockets: (.*)", result.stdout, re.MULTILINE)[0].split()
    addresses = [socket.removesuffix(".serial") for socket in sockets if socket.endswith(".serial")]
    assert addresses
    assert not {*addresses} & {*sockets}, "a restored node was logged in to"
    after = result.stdout.partition(" failed\n")[2]
    assert "qemu" not in after, f"a machine is left: {after}"
    assert "libvirtd" not in after, "a room is left"
