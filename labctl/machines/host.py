"""The interface of the place where a lab's machines live, which `PrivateRoom` and `ExistingLibvirt` implement."""

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.base.errors import LabError
from labctl.base.proc import Process
from labctl.base.process import first_line
from labctl.images.store import Image
from labctl.machines.filters import Drop
from labctl.plan.domain import Disks
from labctl.plan.plan import Plan, PlannedNode

if TYPE_CHECKING:
    from labctl.machines.provider import Provider

_HELLO = "SSH-2.0-labctl\r\n"
"""The client's identification (RFC 4253, 4.2); without it sshd would log an error."""


class Ability(StrEnum):
    """What only some hosts can do; the value completes the sentence "labctl cannot …"."""

    save = "save machines and let them go on"
    log = "keep what machines say on their consoles"
    filter = "keep machines from each other"
    capture = "capture packets"


class Host(ABC):
    """The place where a lab's machines live."""

    title: str
    """Its name in a sentence, such as "a private room"."""
    abilities: frozenset[Ability]
    uri: str
    daemon: str
    """Its libvirt's name in a sentence."""
    remedy: str
    """A hint for the user if its libvirt does not answer any more."""
    own_bridges: bool
    """Whether the host makes the bridges, with the physical machine's addresses; otherwise libvirt does."""
    proxy: str | None
    """The ProxyCommand that carries SSH to the nodes; None if they can be reached directly."""

    @abstractmethod
    def open(self, plan: Plan, known: Callable[[Process], None]) -> None:
        """Make the host ready for libvirt connections; if that starts a process, `known` is called with it first."""

    @abstractmethod
    def close(self) -> None:
        """End everything there that only this lab uses."""

    @abstractmethod
    def is_open(self) -> bool:
        """Whether the host still exists."""

    @abstractmethod
    def place(self, provider: "Provider", node: PlannedNode, image: Image, seed: bytes,
              base: Path | None = None) -> Disks:
        """Put a node's files where its domain can use them; its disk is an overlay of the image's, or of `base`."""

    def must(self, ability: Ability) -> None:
        """Raise LabError if the host lacks an ability; commands call this before they touch anything."""
        if ability not in self.abilities:
            raise LabError(f"In {self.title} labctl cannot {ability}.",
                           hint="In a private room, without --host, it can.")

    def greeting(self, address: IPv4Address, seconds: float) -> str:
        """The first line that the node at an address sends at its SSH port; empty if none comes within `seconds`."""
        tokens = {"%h": str(address), "%p": "22", "%%": "%"}
        command = re.sub("%[hp%]", lambda token: tokens[token[0]], self.proxy or "nc %h %p")
        return first_line(shlex.split(command), _HELLO, seconds)

    @abstractmethod
    def filter(self, drops: Sequence[Drop]) -> None:
        """Have these frames between the lab's machines get lost, and no others, at a place that can."""

    @abstractmethod
    def inside(self, argv: Sequence[str | Path]) -> list[str | Path]:
        """The command line that runs a program where the lab's networks are, at a place that can capture."""

    @abstractmethod
    def taps(self) -> dict[str, str]:
        """The taps that nodes' interfaces end at there: the MAC address of each (`tap_mac`), and its name."""

    @abstractmethod
    def pin(self, bridge: str, address: IPv4Address, mac: str | None) -> None:
        """Have the physical machine take an address for that of a MAC, whoever says so; None: for whoever has it."""

    @abstractmethod
    def serial(self, node: PlannedNode) -> Path:
        """The socket of a node's second serial port, on a host that can save machines."""

    @abstractmethod
    def console(self, node: str) -> Path | None:
        """The file with a copy of the node's serial console; None if the host keeps none."""
