"""labctl.observe.guest.witness: what it tells of a server that answers, refuses, or keeps silent for a known time."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from labctl.observe import guest
from labctl.observe.clock import Clock
from labctl.observe.guest.witness import SCOUT_LIFE_SECONDS
from labctl.observe.outage import TIMEOUT_SECONDS, Request, Timeline, requests

WITNESS = Path(guest.__file__).with_name("witness.py")
RATE = 20
RESOLUTION = 0.005
ANSWER = b"HTTP/1.0 200 OK\r\n\r\nrs1\n"


class Stopwatch:
    """A server that is silent for `silence` seconds after its so-many-th answer; what comes meanwhile waits, or is
    refused."""

    def __init__(self, silence: float = 0, after: int = 0, *, refuses: bool = False) -> None:
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]
        self._silence, self._after, self._refuses = silence, after, refuses
        self.measured = 0.0
        """The time from the last answer to the end of the silence, as it was"""
        threading.Thread(target=self._serve, daemon=True).start()

    @staticmethod
    def _listen(port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(512)
        return listener

    def _serve(self) -> None:
        answers = 0
        with suppress(OSError):  # It is closed.
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(ConnectionError):
                    if connection.recv(4096):
                        connection.sendall(ANSWER)
                        answers += 1
                if answers == self._after:
                    began = time.monotonic()
                    if self._refuses:
                        self._listener.close()
                    time.sleep(self._silence)
                    if self._refuses:
                        self._listener = self._listen(self.port)
                    self.measured = time.monotonic() - began
                    self._after = 0

    def close(self) -> None:
        self._listener.close()


@contextmanager
def witness(*words: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-S", "-E", str(WITNESS), *map(str, words)], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def asked(port: int, seconds: float, rate: int = RATE) -> list[Request]:
    """What the witness tells in so many seconds."""
    with witness("requests", "127.0.0.1", port, "web", rate, TIMEOUT_SECONDS, 10000) as process:
        time.sleep(seconds)
        out, _ = process.communicate()  # The end of its input is its own.
    assert process.returncode == 0
    clock = Clock()
    clock.answered(0, 0, 0)
    return requests([(1e9, line) for line in out.splitlines()], clock, 0)


@pytest.mark.parametrize("refuses", [False, True], ids=["waits", "refuses"])
@pytest.mark.parametrize("silence", [0.7, 1.3])
def test_a_silence_is_measured_to_five_milliseconds(silence: float, refuses: bool) -> None:
    best = 1.0
    for _ in range(5):  # A busy machine may stop either of the two for longer than that.
        server = Stopwatch(silence, after=10, refuses=refuses)
        timeline = Timeline(asked(server.port, silence + 1.2), end=0)
        server.close()
        gap = max(timeline.gaps(0.3), key=lambda gap: gap.seconds)
        best = min(best, abs(gap.seconds - server.measured))
        if best <= RESOLUTION:
            return
    pytest.fail(f"off by {best * 1000:.1f} ms")


def test_requests_go_on_while_earlier_ones_wait() -> None:
    server = Stopwatch(1.5, after=5)
    every = asked(server.port, 2.5)
    server.close()
    steady = sorted(one.began for one in every if not one.scout)
    assert len(steady) == pytest.approx(2.5 * RATE, rel=0.3)
    assert max(other - one for one, other in pairwise(steady)) < 0.9


def test_what_is_refused_and_what_gets_no_answer_is_told() -> None:
    assert {one.outcome for one in asked(1, 0.5)} == {"refused"}
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(512)
        every = asked(deaf.getsockname()[1], 3)
    assert {one.outcome for one in every} == {"timeout"}
    assert not [one for one in every if one.scout]
    assert all(2 <= one.ended - one.began < 2.5 for one in every)


def test_a_server_that_is_slow_is_asked_no_more_often_for_it() -> None:
    taken: list[socket.socket] = []
    with socket.socket() as slow:
        slow.bind(("127.0.0.1", 0))
        slow.listen(512)

        def take() -> None:
            with suppress(OSError):
                while True:
                    taken.append(slow.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        asked(slow.getsockname()[1], 3)
        slow.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()
    assert len(taken) <= 3 * (RATE + 1 / SCOUT_LIFE_SECONDS) + 3


def test_each_request_has_a_port_of_its_own() -> None:
    ports: list[int] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        listener.settimeout(10)
        with witness("requests", "127.0.0.1", listener.getsockname()[1], "web", RATE, TIMEOUT_SECONDS, 20000):
            for _ in range(5):
                connection, (_, port) = listener.accept()
                connection.close()
                ports.append(port)
    assert ports == list(range(20001, 20006))


@pytest.mark.parametrize("verb", [["requests", "127.0.0.1", "1", "web", "20", "2", "10000"],
                                  ["changes", "10.10.10.100", "table"]])
def test_a_question_for_the_time_is_answered_at_once(verb: list[str]) -> None:
    with witness(*verb) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("seven\n")
        process.stdin.flush()
        line = next(line for line in process.stdout if line.startswith("clock"))
        assert line.split()[:2] == ["clock", "seven"]
        assert abs(float(line.split()[2]) - time.monotonic()) < 5


def test_an_address_that_comes_and_goes_is_told() -> None:
    script = ("ip link add d0 type bridge; ip link set d0 up; ip address add 10.10.10.102/32 dev d0; "
              "(sleep 1.5; ip address add 10.10.10.100/32 dev d0; "
              "ip address add 10.10.10.101/32 dev d0; ip address add 10.10.10.100/32 dev lo; sleep 0.3; "
              "ip address del 10.10.10.100/32 dev d0; sleep 0.5) | "
              f"{sys.executable} -S -E {WITNESS} changes 10.10.10.100,10.10.10.102 table")
    out = subprocess.run(["unshare", "-rn", "sh", "-c", script], check=True, capture_output=True, text=True).stdout
    assert [line.split()[0::2] + line.split()[3:] for line in out.splitlines() if line.startswith("address")] == [
        ["address", "has", "10.10.10.102"], ["address", "gained", "10.10.10.100"], ["address", "lost", "10.10.10.100"]]


def test_what_python_2_reads_is_the_same_clock() -> None:
    code = f"exec(open({str(WITNESS)!r}).read().split('now = ')[0]); print(_monotonic_of_libc()())"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert abs(float(said) - time.monotonic()) < 5
