"""Asks NTP servers for the time; runs on a node, with the guest's own Python (CentOS 7: 2.7).

The guests' own tools differ, are written in Python as well, and take seconds to start under emulation. The packet is
that of RFC 5905, section 7.3; the first byte of a request means version 4, client. The last two timestamps of an answer
are when the request arrived and when the answer left.
"""

import _socket
import sys
import time
from struct import unpack

PORT = 123
ERA = 2208988800
"""Seconds from 1900, when NTP begins to count, until 1970."""
QUESTIONS = 4
"""How often each server is asked; the quickest answer is the most exact."""
SECONDS = 1


def ask(address):
    """Ask once; returns the time taken, leap indicator, stratum, reference and offset (in seconds), or None."""
    connection = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    connection.settimeout(SECONDS)
    try:
        sent = time.time()
        connection.sendto(b"\x23" + 47 * b"\0", (address, PORT))
        answer = connection.recv(1024)
        came = time.time()
    except _socket.error:
        return None
    finally:
        connection.close()
    first, stratum, reference, arrived, left = unpack("!BB10x4s16xQQ", answer[:48])
    offset = (arrived / 2.0**32 - ERA - sent + left / 2.0**32 - ERA - came) / 2
    return came - sent, first >> 6, stratum, ".".join(str(byte) for byte in bytearray(reference)), offset


if __name__ == "__main__":
    for server in sys.argv[1:]:
        answers = [answer for answer in [ask(server) for _ in range(QUESTIONS)] if answer]
        if answers:
            _, leap, stratum, reference, offset = min(answers)
            print(" ".join([server, str(leap), str(stratum), reference, str(offset)]))
