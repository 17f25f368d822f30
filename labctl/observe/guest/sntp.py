"""Asks NTP servers the time; runs on a node, by whatever Python the guest has (CentOS 7: 2.7).

The guests' own tools differ, are programs in Python as well, and take seconds to start under emulation. The packet is
that of RFC 5905, section 7.3; the first byte of a question says: version 4, from a client. An answer's last two times
are when the question came, and when the answer left.
"""

import _socket
import sys
import time
from struct import unpack

PORT = 123
ERA = 2208988800
"""Seconds from 1900, when NTP begins to count, until 1970."""
QUESTIONS = 4
"""The answer that comes back the soonest tells best."""
SECONDS = 1


def ask(address):
    """Ask once; gives how long it took, and leap indicator, stratum, reference and offset (seconds), or None."""
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
