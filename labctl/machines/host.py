"""What a lab needs of the place where its machines live: `PrivateRoom` and `ExistingLibvirt` are such places."""

import shlex
from abc import ABC, abstractmethod
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.base.process import first_line
from labctl.images.store import Image
from labctl.plan.domain import Disks
from labctl.plan.plan import Plan, PlannedNode

if TYPE_CHECKING:
    from labctl.machines.provider import Provider

_HELLO = "SSH-2.0-labctl\r\n"
"""RFC 4253, 4.2. sshd would log an error about somebody who goes without it."""


class Host(ABC):
    """The place where a lab's machines live."""

    uri: str
    own_bridges: bool
    """The place makes the bridges, with the physical machine's addresses; otherwise libvirt does."""
    proxy: str | None
    """The ProxyCommand that carries SSH to the nodes; None where they can be reached as they are."""

    @abstractmethod
    def open(self, plan: Plan) -> None:
        """Make the place ready for libvirt connections."""

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

    def greeting(self, address: IPv4Address, seconds: float) -> str:
        """What the node at an address says to somebody who comes to its SSH port; empty where it says nothing."""
        words = shlex.split((self.proxy or "nc %h %p").replace("%h", str(address)).replace("%p", "22"))
        return first_line(words, _HELLO, seconds)

    @abstractmethod
    def console(self, node: str) -> Path | None:
        """The file with a copy of the node's serial console, where there is one."""
