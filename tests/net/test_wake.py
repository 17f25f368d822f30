"""labctl.machines.memory.wake: a shell that waits at a terminal, for which this machine lends a pseudo-terminal."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from labctl.base.errors import Unreachable
from labctl.base.wait import Deadline, until
from labctl.machines.memory import wake


class Machine:
    """What QEMU is to a guest's second serial port: its other end, as a socket."""

    def __init__(self, directory: Path) -> None:
        self.port = directory / "port"
        self._waits = directory / "waits"
        self._wire, self._terminal = os.openpty()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.port))
        self._server.listen()
        self._programs = directory / "bin"
        self._programs.mkdir()
        # Nobody is to put this machine's clock forward.
        date = self._programs / "date"
        date.write_text(f'#!/bin/sh\necho "$@" >{directory}/date\necho "${{3#+}}"\n')
        date.chmod(0o755)
        threading.Thread(target=self._carry, daemon=True).start()

    def wait(self) -> None:
        """Have a shell wait."""
        script = wake.WAIT.replace("/dev/ttyS1", os.ttyname(self._terminal))
        script = script.replace("/run/labctl-waits", str(self._waits))
        subprocess.run(["sh", "-s"], input=script, text=True, check=True, timeout=30,
                       env={**os.environ, "PATH": f"{self._programs}:{os.environ['PATH']}"})

    def waiting(self) -> int | None:
        """The process that waits."""
        text = self._waits.read_text()
        return int(text) if text else None

    def close(self) -> None:
        """End what waits."""
        with suppress(FileNotFoundError, ProcessLookupError):
            waiting = self.waiting()
            if waiting:
                os.kill(waiting, 9)
        self._server.close()

    def _carry(self) -> None:
        with suppress(OSError):
            connection, _ = self._server.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
            while said := connection.recv(1000):
                os.write(self._wire, said)

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError):
            while said := os.read(self._wire, 1000):
                connection.sendall(said)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    running = Machine(tmp_path)
    yield running
    running.close()


@pytest.mark.parametrize("times", [1, 2])
def test_a_shell_waits_answers_once_and_puts_the_clock_forward(machine: Machine, tmp_path: Path, times: int) -> None:
    """Also where one had been left waiting: they would share the question between them."""
    for _ in range(times):
        machine.wait()
    assert machine.waiting()
    said = wake.ask(machine.port, r"printf '%s|' one 'a\nb'; echo two; missing; echo three", 1.5, 20)
    assert said == "one|a\\nb|two\nthree\n"
    assert (tmp_path / "date").read_text().startswith("-us +1.500 seconds +=")
    assert machine.waiting() is None


def test_the_port_is_nobodys_terminal(machine: Machine) -> None:
    """It would be hung up when the one that waits ends, for the next one as well."""
    machine.wait()
    stat = Path(f"/proc/{machine.waiting()}/stat")
    assert until(lambda: "(bash)" in stat.read_text(), Deadline(10))
    time.sleep(0.2)
    terminal = stat.read_text().rpartition(")")[2].split()[4]
    assert terminal == "0"


def test_nobody_has_to_wait() -> None:
    with pytest.raises(Unreachable, match="Nobody answers at '/none'"):
        wake.ask(Path("/none"), "echo", 0, 20)


def test_a_machine_that_says_nothing_is_given_up(machine: Machine) -> None:
    before = time.monotonic()
    with pytest.raises(Unreachable, match="Nobody answers"):
        wake.ask(machine.port, "echo", 0, 0.2)
    assert 0.2 <= time.monotonic() - before < 5


def test_a_machine_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "port"))
        server.listen()

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        before = time.monotonic()
        with pytest.raises(Unreachable, match="Nobody answers"):
            wake.ask(tmp_path / "port", "echo", 0, 20)
        thread.join()
    assert time.monotonic() - before < 5
