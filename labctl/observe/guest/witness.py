"""Tells what it sees, as it happens; runs on a node, by whatever Python the guest has (CentOS 7: 2.7).

`requests` asks a web server at a steady rate and tells what became of each request. `changes` tells when an address
comes to the node or leaves it, when the balancer's table changes, and what units log.

All times are seconds of CLOCK_MONOTONIC, which nobody sets. Whatever line comes at the standard input is answered with
that clock, so that it can be compared with others; the program ends where its input ends.

Under emulation each import and each write costs milliseconds: there are few modules, and what happens within
BATCH_SECONDS is told at once.
"""

import _socket
import errno
import os
import select
import sys
import time
from struct import calcsize, pack, unpack_from

BATCH_SECONDS = 0.2
SCOUT_SECONDS = 0.005
"""While nobody answers, further requests go out so often, to see the end of it in time; less often the longer it lasts,
to a thousandth of the silence. Where one is taken, by a server that is slow or hangs, it waits alone: its answer will
come as soon as any, and many would keep the server from answering."""
SCOUT_LIFE_SECONDS = 0.25
SILENT_SECONDS = 0.25
"""After so long without an answer nobody answers."""
LOWEST_PORT, PORTS = 10000, 22000
"""The local ports that requests come from, see Observer."""
TABLE_SECONDS = 0.1
"""Between two looks at the balancer's table."""
LONGEST_PAGE = 200


def _monotonic():
    """A function that gives CLOCK_MONOTONIC, which Python 2 does not know."""
    known = getattr(time, "monotonic", None)
    return known or _monotonic_of_libc()


def _monotonic_of_libc():
    import ctypes  # noqa: PLC0415 (takes long to load, and Python 3 does without)

    moment = (ctypes.c_long * 2)()
    read = ctypes.CDLL(None).clock_gettime

    def now():
        read(1, moment)
        return moment[0] + moment[1] * 1e-9

    return now


now = _monotonic()


class Teller(object):  # noqa: UP004 (Python 2)
    """Writes lines to whoever listens, several at once, and hears questions for the time."""

    def __init__(self):
        self.poll = select.poll()
        self.poll.register(0, select.POLLIN)
        self._lines = []
        self._due = 0.0

    def tell(self, *words):
        """Say a line, soon."""
        if not self._lines:
            self._due = now() + BATCH_SECONDS
        self._lines.append(" ".join("{:.4f}".format(word) if isinstance(word, float) else word for word in words))

    def wait(self, moment):
        """Wait until then, or until something happens; gives the files that it happened to, and with what."""
        if self._lines:
            moment = min(moment, self._due)
        events = self.poll.poll(max(0, int((moment - now()) * 1000 + 0.999)))
        if any(file == 0 for file, _ in events):
            question = os.read(0, 4096)
            if not question:
                sys.exit()
            self._lines.append("clock {} {:.6f}".format(question.decode("ascii").split()[-1], now()))
            self._due = 0.0
        if self._lines and now() >= self._due:
            said = ("\n".join(self._lines) + "\n").encode("ascii")
            self._lines = []
            while said:
                try:
                    said = said[os.write(1, said):]
                except OSError:  # Nobody listens any more.
                    sys.exit()
        return [event for event in events if event[0] != 0]


class Request(object):  # noqa: UP004 (Python 2)
    """A request on its way, with a connection of its own."""

    def __init__(self, target, port, kind, lifetime):
        self.kind = kind
        self.began = now()
        self.ends = self.began + lifetime
        self.connected = False
        self._answer = b""
        self._connection = _socket.socket()
        self._connection.setblocking(False)
        self.file = self._connection.fileno()
        try:  # noqa: SIM105 (Python 2 has no suppress)
            self._connection.bind(("", port))
        except _socket.error:
            pass  # The port is taken, and the kernel chooses another one.
        self._error = self._connection.connect_ex(target)
        if self._error == errno.EINPROGRESS:
            self._error = 0

    def goes_on(self, question):
        """Take the next step of a request; false at its end."""
        try:
            if not self.connected:
                self._error = self._error or self._connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
                self.connected = not self._error
                return self.connected and self._connection.send(question) > 0
            received = self._connection.recv(65536)
            self._answer += received
            return bool(received)
        except _socket.error as error:
            self._error = error.errno
            return False

    def outcome(self):
        """What became of it, the HTTP status, and the page."""
        self._connection.close()
        if now() >= self.ends:
            return "timeout", "0", ""
        if not self.connected:
            return "refused" if self._error == errno.ECONNREFUSED else "unreachable", "0", ""
        head, end, page = self._answer.partition(b"\r\n\r\n")
        words = head.split()
        if self._error or not end or len(words) < 2:
            return "broken", "0", ""
        status = words[1].decode("ascii", "replace")
        page = page[:LONGEST_PAGE].decode("utf-8", "replace").strip()
        return "answered" if status == "200" else "failed", status, page.encode("unicode_escape").decode("ascii")


class Asker(object):  # noqa: UP004 (Python 2)
    """Asks for ever, each 1/rate seconds, whatever became of earlier requests."""

    def __init__(self, address, port, host, rate, lifetime, first_port):
        self._target = (address, port)
        self._question = b"GET / HTTP/1.0\r\nHost: " + host.encode("ascii") + b"\r\nConnection: close\r\n\r\n"
        self._interval = 1.0 / rate
        self._lifetime = lifetime
        self._next_port = int(first_port)
        self._teller = Teller()
        self._waiting = {}
        self._due = self._last_answer = now()
        self._scout_due = 0.0

    def run(self):
        """Ask."""
        while True:
            moment = now()
            if moment >= self._due:
                self._begin("request", self._lifetime)
                # A node that was held still does not make up for it.
                self._due = self._due + self._interval if moment - self._due < 1 else moment + self._interval
            silence = moment - self._last_answer
            silent = silence > SILENT_SECONDS + 2 * self._interval
            scouts = silent and not any(each.connected for each in self._waiting.values() if each.kind == "scout")
            if scouts and moment >= self._scout_due:
                self._scout_due = moment + max(SCOUT_SECONDS, silence / 1000)
                self._begin("scout", SCOUT_LIFE_SECONDS)
            ends = [request.ends for request in self._waiting.values()]
            events = self._teller.wait(min([self._due] + ends + ([self._scout_due] if scouts else [])))
            for request in [self._waiting[file] for file, _ in events]:
                if request.goes_on(self._question):
                    self._teller.poll.modify(request.file, select.POLLIN)
                else:
                    self._end(request)
            for request in [each for each in self._waiting.values() if each.ends <= now()]:
                self._end(request)

    def _begin(self, kind, lifetime):
        self._next_port = self._next_port + 1 if self._next_port < LOWEST_PORT + PORTS else LOWEST_PORT
        request = Request(self._target, self._next_port, kind, lifetime)
        self._waiting[request.file] = request
        self._teller.poll.register(request.file, select.POLLOUT)

    def _end(self, request):
        self._teller.poll.unregister(request.file)
        del self._waiting[request.file]
        outcome, status, page = request.outcome()
        if outcome == "answered":
            self._last_answer = now()
        if outcome == "answered" or request.kind == "request":
            self._teller.tell(request.kind, request.began, now(), outcome, status, page)


# ---- Changes ----------------------------------------------------------------------------------------------------

_NEW_ADDRESS, _LOST_ADDRESS, _ASK_ADDRESSES = 20, 21, 22
_HEADER, _ADDRESS, _ATTRIBUTE = "=IHHII", "=BBBBi", "=HH"
_ANSWER = 2
"""NLM_F_MULTI: a part of the answer to a question"""
_LOCAL = 2
"""IFA_LOCAL; all of this is in the kernel's rtnetlink(7)."""
_LOOPBACK = 1
"""The first interface, on which real servers have the VIP without being its holder."""


def changes(addresses, table, units):
    """Tell for ever what changes."""
    teller = Teller()
    link = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, 0)
    link.bind((0, 0x10))  # RTMGRP_IPV4_IFADDR
    link.send(pack(_HEADER, 24, _ASK_ADDRESSES, 0x301, 1, 0) + pack(_ADDRESS, _socket.AF_INET, 0, 0, 0, 0))
    teller.poll.register(link.fileno(), select.POLLIN)
    child, journal = _journal(units) if units else (0, -1)
    try:
        if child:
            teller.poll.register(journal, select.POLLIN)
        _tell_changes(teller, link, journal, addresses, table)
    finally:
        if child:
            os.kill(child, 15)


def _tell_changes(teller, link, journal, addresses, table):
    heard, shown, due = b"", None, now()
    while True:
        for file, _ in teller.wait(due if table else now() + 3600):
            if file == journal:
                block = os.read(file, 65536)
                if not block:
                    teller.poll.unregister(file)
                heard += block
                lines = heard.split(b"\n")
                heard = lines.pop()
                for line in lines:
                    teller.tell("log", now(), line.decode("utf-8", "replace").encode("unicode_escape").decode("ascii"))
            else:
                for verb, address in _addresses(link.recv(65536)):
                    if address in addresses:
                        teller.tell("address", now(), verb, address)
        if table and now() >= due:
            due = now() + TABLE_SECONDS
            found = _table()
            if found != shown:
                teller.tell("table", now(), found)
                shown = found


def _addresses(block):
    """What the kernel says of addresses: what it was asked for is what it has, and all else is news."""
    while len(block) >= calcsize(_HEADER):
        length, kind, flags = unpack_from("=IHH", block)
        if kind in (_NEW_ADDRESS, _LOST_ADDRESS) and unpack_from(_ADDRESS, block, 16)[4] != _LOOPBACK:
            at = 16 + calcsize(_ADDRESS)
            while at + 4 <= length:
                size, attribute = unpack_from(_ATTRIBUTE, block, at)
                if attribute == _LOCAL:
                    quad = ".".join(str(byte) for byte in bytearray(block[at + 4:at + 8]))
                    yield ("lost" if kind == _LOST_ADDRESS else "has" if flags & _ANSWER else "gained"), quad
                at += max(4, (size + 3) & ~3)
        block = block[max(16, (length + 3) & ~3):]


def _table():
    """Each real server of the kernel's table (/proc/net/ip_vs): SERVICE>SERVER=WEIGHT, as the kernel writes them."""
    rows, service = [], ""
    try:
        with open("/proc/net/ip_vs") as file:  # noqa: PTH123 (Python 2)
            for line in file:
                words = line.split()
                if words[0] in ("TCP", "UDP", "FWM"):
                    service = words[0] + ":" + words[1]
                elif words[0] == "->" and service:
                    rows.append("{}>{}={}".format(service, words[1], words[3]))
    except IOError:
        pass  # The module is not loaded; then there is no table.
    return ",".join(sorted(rows)) or "-"


def _journal(units):
    """What the units have logged since the node booted, and will: a process, and a file to read JSON from."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(theirs, 1)
        os.close(ours)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 2)
        words = ["journalctl", "--follow", "--boot", "--lines=50", "--output=json"]
        os.execvp(words[0], words + ["--unit=" + unit for unit in units])
    os.close(theirs)
    return child, ours


if __name__ == "__main__":
    if sys.argv[1] == "requests":
        Asker(sys.argv[2], int(sys.argv[3]), sys.argv[4], *[float(word) for word in sys.argv[5:8]]).run()
    else:
        changes(sys.argv[2].split(","), sys.argv[3] == "table", sys.argv[4:])
