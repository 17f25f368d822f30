"""What a lab needs of the place where its machines live: `PrivateRoom` and `ExistingLibvirt` are such places."""

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.base.errors import LabError
from labctl.base.proc import Process
from labctl.base.process import first_line
from labctl.images.store import Image
from labctl.plan.domain import Disks
from labctl.plan.plan import Plan, PlannedNode

if TYPE_CHECKING:
    from labctl.machines.provider import Provider

_HELLO = "SSH-2.0-labctl\r\n"
"""RFC 4253, 4.2. sshd would log an error about somebody who goes without it."""


class Ability(StrEnum):
    """What not every place can do, as a verb that needs it says it."""

    save = "save machines and let them go on"
    log = "keep what machines say on their consoles"


class Host(ABC):
    """The place where a lab's machines live."""

    title: str
    """What people call it."""
    abilities: frozenset[Ability]
    uri: str
    daemon: str
    """What to call its libvirt in a sentence."""
    remedy: str
    """What helps where its libvirt does not answer any more."""
    own_bridges: bool
    """The place makes the bridges, with the physical machine's addresses; otherwise libvirt does."""
    proxy: str | None
    """The ProxyCommand that carries SSH to the nodes; None where they can be reached as they are."""

    @abstractmethod
    def open(self, plan: Plan, known: Callable[[Process], None]) -> None:
        """Make the place ready for libvirt connections; if it is a process, that is `known` first."""

    @abstractmethod
    def close(self) -> None:
        """End everything there that is the lab's alone."""

    @abstractmethod
    def is_open(self) -> bool:
        """Whether the place still exists."""

    @abstractmethod
    def place(self, provider: "Provider", node: PlannedNode, image: Image, seed: bytes,
              base: Path | None = None) -> Disks:
        """Bring a node's files to where its domain can use them; its disk is over the image's, or over `base`."""

    def must(self, ability: Ability) -> None:
        """Raise LabError if the place cannot do it: for verbs, before they touch anything."""
        if ability not in self.abilities:
            raise LabError(f"In {self.title} labctl cannot {ability}.",
                           hint="In a private room, without --host, it can.")

    def greeting(self, address: IPv4Address, seconds: float) -> str:
        """What the node at an address says to somebody who comes to its SSH port; empty where it says nothing."""
        tokens = {"%h": str(address), "%p": "22", "%%": "%"}
        command = re.sub("%[hp%]", lambda token: tokens[token[0]], self.proxy or "nc %h %p")
        return first_line(shlex.split(command), _HELLO, seconds)

    @abstractmethod
    def serial(self, node: PlannedNode) -> Path:
        """The socket of a node's second serial port, at a place that can save machines."""

    @abstractmethod
    def console(self, node: str) -> Path | None:
        """The file with a copy of the node's serial console, where there is one."""
