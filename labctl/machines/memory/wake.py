"""Asking a restored node its first question, at a serial port instead of by SSH.

A restored machine does everything for the first time, which is slow under TCG: a login alone takes a second of
processor time. So a shell waits in its memory for a question; it answers one, and ends.
"""

import socket
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from labctl.base.errors import Unreachable
from labctl.base.wait import Deadline, pieces

_LONGEST_ANSWER = 2**20
_WAITS = "/run/labctl-waits"
"""The guest's file with the id of the waiting process; empty once the question has come."""

WAIT = f"""\
set -e
if [ -s {_WAITS} ]; then read -r before <{_WAITS}; kill "$before" || true; fi
(
    exec 3<>/dev/ttyS1
    stty raw -echo clocal <&3
    setsid bash -c 'read -r question <&4; : >{_WAITS}; eval "$question"' </dev/null 4<&3 >&3 2>/dev/null 3>&- &
    echo $! >{_WAITS}
)
"""
"""A script for a node that is going to be saved; it starts a bash that waits for the question.

It is bash because that can open connections without another program. An earlier one is ended, since each of two would
read a part of the question. The port must not become the terminal of a session leader: it would be hung up, for
whoever waits there, when that leader ends. So it is opened in a subshell, since sshd's child is a session leader, and
it is not bash's standard input, which bash would make its terminal.
"""


def put_forward(late: float) -> str:
    """A shell command that puts the clock forward by `late` seconds.

    Setting the clock from the hardware clock would not do: that counts whole seconds, and QEMU's may be one second
    behind. An NTP client could then take five minutes before it trusts such a difference.
    """
    return f"date -us '{late:+.3f} seconds'"


def ask(port: Path, question: str, late: float, seconds: float) -> str:
    """Send a line of shell commands to the node behind a serial port, and return their output.

    After them the node's clock is put forward by `late` seconds. The commands should start few programs and no
    subshells, which are slow on a restored machine. Raises Unreachable if there is no answer within `seconds`.
    """
    end = f"={uuid4().hex}=\n".encode()
    answer = bytearray()
    deadline = Deadline(seconds)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds)
            connection.connect(str(port))
            # The last command replaces the shell, and its output marks the end.
            connection.sendall(f"{question}; exec {put_forward(late)} +".encode() + end)
            for piece in pieces(deadline):
                connection.settimeout(piece + 0.01)
                with suppress(TimeoutError):
                    answer += _part(connection)
                if answer.endswith(end):
                    return answer.removesuffix(end).decode(errors="replace")
                if len(answer) > _LONGEST_ANSWER:
                    raise ConnectionError("it talks without end")
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    except OSError as error:
        raise Unreachable(f"Nobody answers at '{port}': {error}.") from None


def _part(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        raise ConnectionError("the machine is gone")
    return part
