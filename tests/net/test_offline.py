"""--offline: no connection is opened, also where one could be."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import put

COMMANDS = {
    "pull": ["image", "pull", "centos-7", "--mirror", "http://{server}"],
    "build": ["image", "build", "debian-12", "--mirror", "http://{server}/debian"],
    "up": ["up", "lvs-dr", "--guest", "debian-12", "--host", "qemu+tcp://{server}/system"],
    "bundle": ["bundle", "create", "course.tar"],
}


class Server:
    """Takes connections, and ends each at once."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def stop(self) -> None:
        """Take no more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that pip asks as well."""
    running = Server()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{running.address}/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    yield running
    running.stop()


def labctl(*words: str) -> list[str]:
    return [sys.executable, "-m", "labctl", *words]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, timeout=120)


def command(name: str, server: Server) -> list[str]:
    put()
    return [word.format(server=server.address) for word in COMMANDS[name]]


@pytest.mark.parametrize("name", COMMANDS)
def test_offline_nothing_is_connected_to(name: str, server: Server) -> None:
    result = run(*labctl("--offline", *command(name, server)))
    assert result.stderr.startswith("labctl: labctl is offline, so it does not ")
    assert "'labctl bundle load FILE'" in result.stderr
    assert result.returncode == 2
    assert server.connections == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_otherwise_it_would_be(name: str, server: Server) -> None:
    """So the test before this one can fail."""
    with subprocess.Popen(labctl(*command(name, server)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not server.connections and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    assert server.connections


def test_where_pip_gets_nothing_no_bundle_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    result = run(*labctl("bundle", "create", "course.tar"))
    assert result.returncode == 2
    said, hint = result.stderr.splitlines()
    assert said.startswith("labctl: labctl and what it depends on could not be packed by pip: Could not find a version")
    assert "PIP_FIND_LINKS" in hint
    assert not list(tmp_path.glob("*course.tar*"))


def test_what_was_installed_without_its_sources_makes_no_bundle(tmp_path: Path) -> None:
    put()
    elsewhere = "import labctl.images.bundle, labctl.__main__, pathlib; labctl.images.bundle.ROOT = pathlib.Path('/'); "
    result = run(sys.executable, "-c", f"{elsewhere} labctl.__main__.main()", "bundle", "create", "course.tar")
    assert result.returncode == 2
    assert "A bundle is made in a checkout of labctl" in result.stderr
    assert not list(tmp_path.glob("*course.tar*"))


def test_without_a_network_a_bundle_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = put()
    file = tmp_path / "course.tar"
    packing = ("import labctl.images.bundle as b, labctl.__main__; b.fetch_wheels = lambda _: []; "
               "labctl.__main__.main()")
    result = run(sys.executable, "-c", packing, "bundle", "create", file)
    assert result.returncode == 0, result.stderr
    user = [] if os.getuid() == 0 else ["--map-root-user"]
    without = ["unshare", *user, "-n", *labctl("--offline")]
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    result = run(*without, "bundle", "load", file)
    assert result.returncode == 0, result.stderr
    assert image.manifest.digest in run(*without, "image", "inspect", "debian-12").stdout
    assert "labctl is offline" in run(*without, "image", "build", "debian-12").stderr
