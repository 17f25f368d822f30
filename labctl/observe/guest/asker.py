"""Sends many requests to a web server from one process; runs on a node, with the guest's own Python (CentOS 7: 2.7).

Under emulation a program takes tenths of a second to start. With a new program for each request, short outages would go
unnoticed, and other traffic could disturb a rotation in between. For the same reason this imports little.
"""

import _socket
import os
import sys
import time

PROBES_PER_SECOND = 5
PROBE_SECONDS = 0.9
"""Less than the 1 s after which the kernel repeats a lost SYN, so that a request cannot outlast an outage."""
SILENCE = 3
"""After this many requests in a row without an answer, `sample` gives up."""


def ask(target, host, seconds, source=("", 0)):
    """Make one request; returns the HTTP status, or 0 if there was no answer in time, and the page."""
    connection = _socket.socket()
    try:
        connection.settimeout(seconds)
        connection.bind(source)
        connection.connect(target)
        connection.sendall(b"GET / HTTP/1.0\r\nHost: " + host.encode() + b"\r\nConnection: close\r\n\r\n")
        answer = b""
        while True:
            received = connection.recv(65536)
            if not received:
                break
            answer += received
        head, _, page = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), page.decode("utf-8", "replace")
    except (_socket.error, IndexError, ValueError):
        return 0, ""
    finally:
        connection.close()


def sample(target, host, seconds, source, first_port, count):
    """Make `count` requests in turn, each from the next local port; prints each one's status and page."""
    silent = 0
    for port in range(first_port, first_port + count):
        status, page = ask(target, host, seconds, (source, port))
        print("{} {}".format(status, page.encode("unicode_escape").decode("ascii")))
        silent = 0 if status else silent + 1
        if silent == SILENCE:
            break


def probe(target, host):
    """Keep making requests without waiting for earlier ones; prints the time at the start of each, and its status."""
    import threading  # noqa: PLC0415 (only this verb needs it)

    def one():
        began = time.time()
        status, _ = ask(target, host, PROBE_SECONDS)
        if time.time() - began > PROBE_SECONDS:
            status = 0
        os.write(1, "{:.3f} {}\n".format(began, status).encode())

    while True:
        threading.Thread(target=one).start()
        time.sleep(1.0 / PROBES_PER_SECOND)


if __name__ == "__main__":
    verb, address, target_port, host_header = sys.argv[1:5]
    if verb == "sample":
        sample((address, int(target_port)), host_header, float(sys.argv[5]), sys.argv[6], int(sys.argv[7]),
               int(sys.argv[8]))
    else:
        probe((address, int(target_port)), host_header)
