"""Templates: nodes start from the memory of a machine that has already booted, as far as it can without an identity.

Under TCG a boot takes tens of seconds, and most of it is the same for every node. So one machine per image and size
boots without network and seed, and is saved, memory and disk, once its guest says that it waits for an identity. A node
starts from that memory, with a disk of its own on top of the saved one; then its interfaces and its seed, for which the
guest waits, are plugged in. The memory does not depend on any lab, and is kept in the cache.
"""

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from filelock import FileLock, Timeout

from labctl.base import files, namespace, paths
from labctl.base.errors import LabError
from labctl.base.progress import Progress
from labctl.base.wait import Deadline, until
from labctl.images import qcow2
from labctl.images.store import Image
from labctl.machines.memory import saveimage
from labctl.plan.domain import Accel, Disks, domain_xml, split, waiting
from labctl.plan.plan import Plan, PlannedNode

if TYPE_CHECKING:
    from labctl.machines.provider import Provider

_GENERIC = ".generic"
"""The name, in the lab, of the machine that is booted to be saved; no node can have it."""
_WAITS = b"labctl: waiting for an identity"
_KNOWS = b"labctl: this machine has an identity"
"""What the guest prints on its console; see the recipes in cloud-init/images."""
_MAKE_SECONDS = 40
_START_SECONDS = 15
_MAKING = ".making-"
_CONSOLE_BYTES = 2**18
"""How much of a console's end is searched, ten times a second."""
_KEPT = 4
"""How many templates the cache keeps; each takes 200 to 300 MB."""


@dataclass(frozen=True)
class Template:
    """A machine that has booted and waits for an identity."""

    disk: Path
    memory: Path


def prepare(plan: Plan, node: PlannedNode, accel: Accel, image: Image, provider: "Provider", lab: Path,
            patience: float, progress: Progress) -> Template:
    """The template for `node`, made first if there is none. Its files get names in the lab's directory, for its use.

    `patience` is the factor on deadlines. Raises LabError.
    """
    root = _root()
    root.mkdir(parents=True, exist_ok=True)
    key = _key(plan, node, accel, image, provider)
    try:
        with FileLock(root / ".lock", timeout=_MAKE_SECONDS * patience):
            home = root / key
            if not (home / "memory").exists():
                progress.say("Booting a machine once, for all nodes to start from its memory, here and in later labs.")
                _make(plan, node, accel, image, provider, home, patience)
            os.utime(home)
            kept = sorted(root.glob("[0-9a-f]*"), key=lambda path: path.stat().st_mtime)[-_KEPT:]
            for path in set(root.iterdir()) - {*kept, root / ".lock"}:
                shutil.rmtree(path, ignore_errors=True)
            disks = lab / "disks"
            disks.mkdir(exist_ok=True)
            # With names of its own for the files, the lab does not depend on the cache.
            return Template(files.adopt(home / "disk.qcow2", disks / f".{key}.qcow2"),
                          files.adopt(home / "memory", disks / f".{key}.memory"))
    except Timeout:
        raise LabError("Another labctl is busy booting one.") from None
    except OSError as error:
        raise LabError(f"{error.strerror}: '{error.filename}'.") from None


def start(template: Template, xml: str, node: str, provider: "Provider", console: Path, patience: float) -> None:
    """Start a machine from memory and wait until it knows who it is. Raises LabError."""
    bare, late = split(xml)
    # libvirt reads the machine's name and UUID from the file, and may open it more than once, so each node has its own.
    memory = template.memory.with_name(f".{node}.memory")
    try:
        files.copy(template.memory, memory)
        saveimage.give(memory, bare)
        provider.restore(memory)
    except OSError as error:
        raise LabError(f"{error.strerror}: '{error.filename}'.") from None
    finally:
        memory.unlink(missing_ok=True)
    for device in late:
        provider.attach(node, device)
    _wait_for(_KNOWS, node, provider, console, _START_SECONDS * patience)


def forget(template: Template) -> None:
    """Remove from the cache a template from which a machine could not start, so that it is made anew next time."""
    shutil.rmtree(_root() / template.disk.stem.lstrip("."), ignore_errors=True)


def sweep(*, dry: bool = False) -> list[Path]:
    """Remove unfinished templates that a killed labctl left, unless one is being made now; with `dry`, only look.

    Returns their directories.
    """
    root = _root()
    found: list[Path] = []
    with suppress(Timeout, OSError), FileLock(root / ".lock", timeout=0):
        found += sorted(root.glob(f"{_MAKING}*"))
        for leftover in found if not dry else []:
            shutil.rmtree(leftover, ignore_errors=True)
    return found


def _make(plan: Plan, node: PlannedNode, accel: Accel, image: Image, provider: "Provider", home: Path,
          patience: float) -> None:
    work = Path(tempfile.mkdtemp(prefix=_MAKING, dir=home.parent))
    disks = Disks(work / "disk.qcow2", work / "none", image.kernel, image.initrd, image.media, work / "console")
    try:
        work.chmod(0o711)
        qcow2.overlay(disks.overlay, image.disk)
        try:
            provider.create_domain(_generic_xml(plan, provider.instance, node, disks, accel, image))
            _wait_for(_WAITS, _GENERIC, provider, work / "console", _MAKE_SECONDS * patience)
            provider.save(_GENERIC, work / "memory")
            namespace.take_from_machines(disks.overlay)
        finally:
            provider.destroy(_GENERIC)
        work.rename(home)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _wait_for(sign: bytes, node: str, provider: "Provider", console: Path, seconds: float) -> None:
    def said_or_gone() -> str:
        if console.exists() and sign in files.tail(console, _CONSOLE_BYTES):
            return "said"
        state = provider.states().get(node, "gone")
        return "" if state == "running" else state

    answer = until(said_or_gone, Deadline(seconds), interval=0.1)
    if answer != "said":
        raise LabError(f"The machine is {answer}." if answer else "The guest does not answer.")


def _generic_xml(plan: Plan, instance: UUID, node: PlannedNode, disks: Disks, accel: Accel, image: Image) -> str:
    generic = node.model_copy(update={"name": _GENERIC, "interfaces": [], "steps": []})
    return waiting(split(domain_xml(plan, instance, generic, disks, accel))[0], image.waiting_args)


def _key(plan: Plan, node: PlannedNode, accel: Accel, image: Image, provider: "Provider") -> str:
    """The digest of everything that a template and the machines started from it have in common."""
    anywhere = Path("/")
    disks = Disks(anywhere, anywhere, anywhere, anywhere, image.media, anywhere)
    xml = _generic_xml(plan.model_copy(update={"lab": ""}), UUID(int=0), node, disks, accel, image)
    return hashlib.sha256(f"{image.manifest.digest} {provider.versions()} {xml}".encode()).hexdigest()[:16]


def _root() -> Path:
    return paths.cache() / "boot"
