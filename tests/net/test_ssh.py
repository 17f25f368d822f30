"""labctl.labs.ssh, with programs in the place of ssh."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.base.errors import LabError, Unreachable
from labctl.labs.ssh import Ssh


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ssh:
    """One whose ssh runs everything here, except on the node 'none', which it does not reach."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text("""#!/bin/sh
case "$*" in
    *" nobody "*) echo "ssh: connect to host nobody: No route to host" >&2; exit 255;;
    *"-O exit"*) exec sleep 60;;
esac
for line; do :; done
exec sh -c "$line"
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return Ssh(Path("none"), tmp_path.joinpath)


@pytest.mark.parametrize("code", [0, 1, 130, 254, 255])
def test_every_exit_code_may_be_a_guests_own(ssh: Ssh, code: int) -> None:
    result = ssh.run("rs1", f"echo out; echo err >&2; exit {code}", 30)
    assert (result.returncode, result.stdout, result.stderr) == (code, "out\n", "err\n")


def test_a_node_that_is_not_reached_is_told_from_that(ssh: Ssh) -> None:
    with pytest.raises(Unreachable, match="'nobody' cannot be reached by SSH: ssh: connect to host nobody: No route"):
        ssh.run("nobody", "true", 30)


def test_a_guest_that_talks_without_end_is_given_up(ssh: Ssh) -> None:
    with pytest.raises(Unreachable, match="The node 'rs1' answers without end"):
        ssh.run("rs1", "yes", 60)
    with pytest.raises(LabError, match=r"It failed: x{300}$"):
        ssh.do("rs1", "head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1", 30, "It failed")


@pytest.mark.parametrize("said", ["inf", "nan", "1e5", "9" * 400 + ".0", "-1.0", "1.5 and more"])
def test_what_is_no_time_of_day_is_refused(ssh: Ssh, said: str, tmp_path: Path) -> None:
    date = tmp_path / "bin" / "date"
    date.write_text(f"#!/bin/sh\necho '{said}'\n")
    date.chmod(0o755)
    with pytest.raises(LabError, match="'rs1' does not say what time it is"):
        ssh.clock_ahead("rs1", 30)


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A shared connection to rs1 whose process does not answer; it calls itself as ssh's does."""
    control = tmp_path / "rs1"
    with (socket.socket(socket.AF_UNIX) as server,
          subprocess.Popen([f"ssh: {control} [mux]"], executable="/bin/cat", stdin=subprocess.PIPE) as process):
        server.bind(str(control))
        server.listen()
        yield process
        process.kill()


def test_a_shared_connection_that_hangs_is_ended(ssh: Ssh, hung: subprocess.Popen[bytes], tmp_path: Path) -> None:
    before = time.monotonic()
    assert ssh.run("rs1", "echo well", 30).stdout == "well\n"
    assert 1 < time.monotonic() - before < 20
    assert hung.wait(5) == -9
    assert not (tmp_path / "rs1").exists()


def test_a_shared_connection_that_is_well_is_left_alone(ssh: Ssh, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "rs1"))
        server.listen()

        def greet() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"hello")

        threading.Thread(target=greet, daemon=True).start()
        assert ssh.run("rs1", "echo well", 30).stdout == "well\n"
    assert (tmp_path / "rs1").exists()


def test_a_shared_connection_that_does_not_end_is_not_waited_for(ssh: Ssh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labctl.labs.ssh._END_SECONDS", 0.3)
    before = time.monotonic()
    ssh.close("rs1")
    assert time.monotonic() - before < 20
