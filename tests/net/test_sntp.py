"""labctl.observe.guest.sntp: what it makes of a time server's answer, and of silence."""

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from labctl.observe.guest import sntp


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that SNTP questions come to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        monkeypatch.setattr(sntp, "PORT", found.getsockname()[1])
        yield found


def answer_one(server: socket.socket, ahead: float) -> None:
    question, asker = server.recvfrom(100)
    assert (len(question), question[0]) == (48, 0x23)
    moment = struct.pack("!Q", int((time.time() + ahead + sntp.ERA) * 2**32))
    server.sendto(b"\x24\x0b\x03\xec" + bytes(8) + bytes([10, 10, 10, 11]) + bytes(16) + 2 * moment, asker)


@pytest.mark.parametrize("ahead", [0.0, 0.5, -86_400.25])
def test_an_answer_tells_stratum_reference_and_the_difference_of_clocks(server: socket.socket, ahead: float) -> None:
    thread = threading.Thread(target=answer_one, args=(server, ahead))
    thread.start()
    took, leap, stratum, reference, offset = sntp.ask("127.0.0.1")
    thread.join()
    assert (leap, stratum, reference) == (0, 11, "10.10.10.11")
    assert offset == pytest.approx(ahead, abs=took)


def test_silence_and_a_closed_port_are_no_answer(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sntp, "SECONDS", 0.1)
    assert sntp.ask("127.0.0.1") is None
    server.close()
    assert sntp.ask("127.0.0.1") is None
