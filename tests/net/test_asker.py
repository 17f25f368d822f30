"""labctl.observe.guest.asker: what it says of a server that answers, refuses, or keeps silent."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labctl.observe import guest

ASKER = Path(guest.__file__).with_name("asker.py")


class Handler(BaseHTTPRequestHandler):
    """Says who asked for what; says nothing for a while to those who ask for `silent`."""

    def do_GET(self) -> None:
        host = self.headers["Host"]
        if host == "silent":
            time.sleep(1.5)
        self.send_response(404 if host == "nobody" else 200)
        self.end_headers()
        with suppress(ConnectionError):  # Who was kept waiting is gone.
            self.wfile.write(f"{host} é {self.client_address[1]}".encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found.server_port
        found.shutdown()
        thread.join()


def sample(port: int, host: str, seconds: float, count: int, first: int) -> list[tuple[int, str]]:
    words = [sys.executable, ASKER, "127.0.0.1", port, host, seconds, "", first, count]
    lines = subprocess.run(map(str, words), check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    answers = [line.partition(" ") for line in lines]
    return [(int(status), page.encode().decode("unicode_escape")) for status, _, page in answers]


def test_each_request_comes_from_the_next_port(server: int) -> None:
    assert sample(server, "web", 5, 3, 21000) == [(200, f"web é {port}") for port in (21000, 21001, 21002)]


def test_what_is_refused_has_a_status(server: int) -> None:
    assert [status for status, _ in sample(server, "nobody", 5, 4, 21100)] == [404] * 4


def test_after_three_silences_none_is_asked_any_more(server: int) -> None:
    assert sample(server, "silent", 0.1, 5, 21200) == [(0, "")] * 3
    assert sample(1, "web", 5, 5, 21300) == [(0, "")] * 3
