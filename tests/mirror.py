"""A mirror on this machine that serves one file, well or badly."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Mirror:
    """What is served, how, and what was asked for. The settings may be changed between requests."""

    content: bytes
    path: str = "/7/images/disk-2211.qcow2"
    """What is at any other path is not found."""
    etag: str | None = '"one"'
    ranges: bool = True
    """Whether parts are served to who asks for them."""
    wrong_range: bool = False
    """Answer with another part than the one asked for."""
    length: bool = True
    """Whether the size is told."""
    status: int | None = None
    """Answer everything with this."""
    redirect: str | None = None
    cut: list[int] = field(default_factory=list)
    """After so many bytes each of the next answers breaks off."""
    stall: list[int] = field(default_factory=list)
    """After so many bytes each of the next answers stands still until the mirror ends or `go_on` is set."""
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of each request."""
    served: list[int] = field(default_factory=list)
    """Bytes of each body."""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a GET."""
        wanted = handler.headers.get("Range")
        self.asked.append((handler.path, wanted))
        self.served.append(0)
        number = len(self.served) - 1
        if self.redirect and handler.path == self.path:
            self._only(handler, 302, Location=self.redirect)
        elif self.status:
            self._only(handler, self.status)
        elif handler.path not in (self.path, self.redirect):
            self._only(handler, 404)
        else:
            self._file(handler, wanted, number)

    def _only(self, handler: BaseHTTPRequestHandler, status: int, **headers: str) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()

    def _file(self, handler: BaseHTTPRequestHandler, wanted: str | None, number: int) -> None:
        begin = 0
        condition = handler.headers.get("If-Range")
        if wanted and self.ranges and condition in (None, self.etag):
            match = re.fullmatch(r"bytes=(\d+)-", wanted)
            assert match
            begin = int(match[1]) // (2 if self.wrong_range else 1)
            if begin >= len(self.content):
                self._only(handler, 416)
                return
        handler.send_response(206 if begin else 200)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        if self.length:
            handler.send_header("Content-Length", str(len(self.content) - begin))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        body = self.content[begin:]
        cut = self.cut.pop(0) if self.cut else len(body)
        stall = self.stall.pop(0) if self.stall else None
        self._send(handler, body[:min(cut, len(body) if stall is None else stall)], number)
        if stall is not None:
            self.go_on.wait(120)
            self._send(handler, body[stall:cut], number)

    def _send(self, handler: BaseHTTPRequestHandler, body: bytes, number: int) -> None:
        handler.wfile.write(body)
        handler.wfile.flush()
        self.served[number] += len(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is none."""


@contextmanager
def serving(mirror: Mirror) -> Iterator[Mirror]:
    """The mirror, until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.answer(self)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with _Server(("127.0.0.1", 0), Handler) as server:
        mirror.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield mirror
        finally:
            mirror.go_on.set()
            server.shutdown()
            thread.join()
