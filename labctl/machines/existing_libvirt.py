"""A libvirt that is there already, on this machine or on another one."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from labctl.base.proc import Process
from labctl.images import qcow2
from labctl.images.store import Image
from labctl.machines.host import Host
from labctl.plan.domain import Disks
from labctl.plan.plan import Plan, PlannedNode

if TYPE_CHECKING:
    from labctl.machines.provider import Provider


class ExistingLibvirt(Host):
    """An existing libvirt. Files get there as volumes, so it may be on another machine."""

    title = "an existing libvirt"
    abilities = frozenset()
    own_bridges = False

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.daemon = f"libvirt at '{uri}'"
        self.remedy = f"'virsh -c {shlex.quote(uri)} list' shows whether it answers others."
        self.proxy = _proxy(uri)

    @override
    def open(self, plan: Plan, known: Callable[[Process], None]) -> None:
        """Nothing to do: it is there, or connecting to it fails."""

    @override
    def close(self) -> None:
        """Nothing to do: it is not ours."""

    @override
    def is_open(self) -> bool:
        """True: whether it can be reached shows when it is used."""
        return True

    @override
    def place(self, provider: "Provider", node: PlannedNode, image: Image, seed: bytes,
              base: Path | None = None) -> Disks:
        """Upload the image once, the seed and an overlay for each node."""
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
    def serial(self, node: PlannedNode) -> Path:
        """There is none."""
        raise NotImplementedError(f"'{node.name}' has no second serial port that can be reached.")

    @override
    def console(self, node: str) -> None:
        """No copy is kept there."""
        return


def _proxy(uri: str) -> str | None:
    """The ProxyCommand that goes through the machine of a libvirt; None for one on this machine.

    Its nodes are in networks of that machine, so whatever carries libvirt, SSH to it carries SSH to them.
    """
    parts = urlsplit(uri)
    if not parts.hostname:
        return None
    port = parts.port if "ssh" in parts.scheme else None  # Otherwise it is libvirt's own.
    words = ["ssh", *(["-p", str(port)] if port else []), *(["-l", unquote(parts.username)] if parts.username else []),
             "-W", "%h:%p", "--", parts.hostname]
    # Two percent signs are one to ssh, which puts the node's address and port in place of %h and %p.
    return " ".join(word if word == "%h:%p" else shlex.quote(word).replace("%", "%%") for word in words)
