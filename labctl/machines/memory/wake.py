"""What a node that was saved says first once it goes on, at a serial port and not by SSH.

Whatever a restored machine does, it does for the first time: under TCG a login alone takes it a second of the
processor. So a shell waits in its memory for the question. It answers one, and is gone.
"""

import socket
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from labctl.base.errors import Unreachable
from labctl.base.wait import Deadline, pieces

_LONGEST_ANSWER = 2**20
_WAITS = "/run/labctl-waits"
"""Has the number of the process that waits."""

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
"""A script for a node that is going to be saved.

It is bash that waits, since it can open connections without a program. Of two that wait each would read a part of the
question. A port that is the terminal of a session's leader is hung up at its end, for whoever waits there by then. So
it is opened in a subshell, as sshd's child is a leader; and it is not bash's standard input, of which bash would make
its terminal.
"""


def put_forward(late: float) -> str:
    """A shell command for a clock that is late by so many seconds.

    It is told by how much because the hardware's clock would not do: it counts whole seconds, and QEMU's may be up to
    one behind. A node that follows another one's clock could then wait for five minutes before it believes in a
    difference.
    """
    return f"date -us '{late:+.3f} seconds'"


def ask(port: Path, question: str, late: float, seconds: float) -> str:
    """What the node behind a serial port answers to a line of shell commands; its clock is put forward after them.

    They should start as few programs as can be, and no subshells: a restored machine takes a third of a second of the
    processor for the former and an eighth for the latter. Raises Unreachable if there is no answer within `seconds`.
    """
    end = f"={uuid4().hex}=\n".encode()
    answer = bytearray()
    deadline = Deadline(seconds)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds)
            connection.connect(str(port))
            # What is done last takes the place of the shell, and says that all is done.
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
