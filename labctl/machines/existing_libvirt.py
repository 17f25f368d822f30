"""An existing libvirt, on this machine or on another one."""

import shlex
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from labctl.base.proc import Process
from labctl.images import qcow2
from labctl.images.store import Image
from labctl.machines.filters import Drop
from labctl.machines.host import Host
from labctl.plan.domain import Disks
from labctl.plan.plan import Plan, PlannedNode

if TYPE_CHECKING:
    from labctl.machines.provider import Provider


class ExistingLibvirt(Host):
    """An existing libvirt. Files are uploaded as volumes, so it may be on another machine."""

    title = "an existing libvirt"
    abilities = frozenset()
    own_bridges = False

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.daemon = f"libvirt at '{uri}'"
        self.remedy = f"'virsh -c {shlex.quote(uri)} list' shows whether it answers virsh."
        self.proxy = _proxy(uri)

    @override
    def open(self, plan: Plan, known: Callable[[Process], None]) -> None:
        """Does nothing: if it is not there, connecting to it fails."""

    @override
    def close(self) -> None:
        """Does nothing: it is not ours."""

    @override
    def is_open(self) -> bool:
        """Always true; connecting shows whether it can be reached."""
        return True

    @override
    def place(self, provider: "Provider", node: PlannedNode, image: Image, seed: bytes,
              base: Path | None = None) -> Disks:
        """Upload the image unless it is there, and make the node's overlay and seed."""
        stem = image.manifest.digest[:16]
        base = provider.base_volume(f"{stem}.qcow2", image.disk)
        size = qcow2.virtual_size(image.disk)
        return Disks(
            overlay=provider.overlay_volume(f"{node.name}.qcow2", base, size),
            seed=provider.lab_volume(f"{node.name}.iso", seed),
            kernel=provider.base_volume(f"{stem}.vmlinuz", image.kernel) if image.kernel else None,
            initrd=provider.base_volume(f"{stem}.initrd", image.initrd) if image.initrd else None,
            media=provider.base_volume(f"{stem}.media", image.media) if image.media else None,
        )

    @override
    def filter(self, drops: Sequence[Drop]) -> None:
        """Nothing can: its bridges are not ours."""
        raise NotImplementedError("Frames on others' bridges are left alone.")

    @override
    def inside(self, argv: Sequence[str | Path]) -> list[str | Path]:
        """Nothing of ours runs there."""
        raise NotImplementedError(f"'{argv[0]}' cannot run there.")

    @override
    def taps(self) -> dict[str, str]:
        """Nobody of ours is there to look."""
        raise NotImplementedError("The interfaces there cannot be seen.")

    @override
    def pin(self, bridge: str, address: IPv4Address, mac: str | None) -> None:
        """Nothing can: its bridges are not ours."""
        raise NotImplementedError("Others' neighbours are left alone.")

    @override
    def serial(self, node: PlannedNode) -> Path:
        raise NotImplementedError(f"'{node.name}' has no second serial port that can be reached.")

    @override
    def console(self, node: str) -> None:
        return


def _proxy(uri: str) -> str | None:
    """The ProxyCommand that goes through libvirt's machine; None if that is this machine.

    The nodes are in networks of that machine, so SSH to it leads to them, whichever transport libvirt uses.
    """
    parts = urlsplit(uri)
    if not parts.hostname:
        return None
    port = parts.port if "ssh" in parts.scheme else None  # Otherwise the port is libvirt's own.
    words = ["ssh", *(["-p", str(port)] if port else []), *(["-l", unquote(parts.username)] if parts.username else []),
             "-W", "%h:%p", "--", parts.hostname]
    # ssh replaces %h and %p by the node's address and port, and %% by one percent sign.
    return " ".join(word if word == "%h:%p" else shlex.quote(word).replace("%", "%%") for word in words)
