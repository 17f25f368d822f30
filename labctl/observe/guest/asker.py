"""Sends many requests to a web server from one process; runs on a node, with the guest's own Python (CentOS 7: 2.7).

Under emulation a program takes tenths of a second to start. With a new program for each request, short outages would go
unnoticed, and other traffic could disturb a rotation in between. For the same reason this imports little.
"""

import _socket
import sys

SILENCE = 3
"""After this many requests in a row without an answer, it gives up."""


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


if __name__ == "__main__":
    address, target_port, host_header, patience, own_address, port, requests = sys.argv[1:]
    sample((address, int(target_port)), host_header, float(patience), own_address, int(port), int(requests))
