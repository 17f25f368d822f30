"""Nodes that start from the memory of a machine that has booted already, as far as it can without knowing who it is.

Under TCG a boot costs tens of seconds, and most of it is the same for every node. So one machine per image and size
boots with no network and no seed, and is saved, memory and disk, once its image says that it waits for an identity.
A node is that memory with a disk of its own on top of the saved one; its interfaces and its seed are plugged in,
which is what the guest waits for. The memory depends on no lab and is kept in the cache.
"""

import hashlib
import os
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import UUID

from filelock import FileLock, Timeout

from labctl.base import files, namespace, paths
from labctl.base.errors import LabError
from labctl.base.progress import Progress
from labctl.base.wait import Deadline, until
from labctl.images import qcow2
from labctl.images.store import Image
from labctl.plan.domain import Accel, Disks, domain_xml, split, waiting
from labctl.plan.plan import Plan, PlannedNode

if TYPE_CHECKING:
    from labctl.machines.provider import Provider

_GENERIC = ".generic"
"""The part of the lab that is booted to be saved; no node can have that name."""
_WAITS = b"labctl: waiting for an identity"
_KNOWS = b"labctl: this machine has an identity"
"""What the image says on the console; see the recipes in cloud-init/images."""
_MAKE_SECONDS = 40
_START_SECONDS = 15
_KEPT = 4
"""Memories in the cache; each takes 200 to 300 MB."""
_HEADER = struct.Struct("=16s5I56x")
"""Of a file that libvirt saves to (qemu_saveimage.h): magic, version, length of the XML, whether the machine is to run,
compression, cookie. QEMU's stream follows after the XML."""
_MAGIC = b"LibvirtQemudSave"


@dataclass(frozen=True)
class Template:
    """A machine that has booted and waits for an identity."""

    disk: Path
    memory: Path


def prepare(plan: Plan, node: PlannedNode, accel: Accel, image: Image, provider: "Provider", lab: Path,
            patience: float, progress: Progress) -> Template:
    """The machine that `node` can start from; it is booted if there is none yet. The files are the lab's to keep.

    `patience` is the factor on deadlines. Raises LabError.
    """
    root = paths.cache() / "boot"
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
            # The lab's own names for the files: it does not mind what becomes of the cache.
            return Template(files.adopt(home / "disk.qcow2", disks / f".{key}.qcow2"),
                          files.adopt(home / "memory", disks / f".{key}.memory"))
    except Timeout:
        raise LabError("Another labctl is busy booting one.") from None
    except OSError as error:
        raise LabError(f"{error.strerror}: '{error.filename}'.") from None


def start(template: Template, xml: str, node: str, provider: "Provider", console: Path, patience: float) -> None:
    """Start a machine from memory and wait until it knows who it is. Raises LabError."""
    bare, late = split(xml)
    with saved_as(bare, template.memory) as file:
        provider.restore(file)
    for device in late:
        provider.attach(node, device)
    _wait_for(_KNOWS, node, provider, console, _START_SECONDS * patience)


def forget(template: Template) -> None:
    """Drop from the cache what a machine could not start from, so that it is made anew next time."""
    shutil.rmtree(paths.cache() / "boot" / template.disk.stem.lstrip("."), ignore_errors=True)


def _make(plan: Plan, node: PlannedNode, accel: Accel, image: Image, provider: "Provider", home: Path,
          patience: float) -> None:
    work = Path(tempfile.mkdtemp(prefix=".making-", dir=home.parent))
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
        if console.exists() and sign in console.read_bytes():
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
    """All that memory has to have in common with the machine it is given to."""
    anywhere = Path("/")
    disks = Disks(anywhere, anywhere, anywhere, anywhere, image.media, anywhere)
    xml = _generic_xml(plan.model_copy(update={"lab": ""}), UUID(int=0), node, disks, accel, image)
    return hashlib.sha256(f"{image.manifest.digest} {provider.versions()} {xml}".encode()).hexdigest()[:16]


# ---- A saved machine as libvirt reads it ---------------------------------------------------------------------


@contextmanager
def saved_as(xml: str, memory: Path) -> Iterator[Path]:
    """A pipe that reads like a file to which libvirt has saved the machine `xml`, with the memory of another.

    libvirt compares the names and UUIDs of a saved machine and the one it is to become, so the saved one has to
    have the right ones from the start; and a copy of the memory for each node would be written for nothing.
    """
    # Looked at before anybody opens the pipe: libvirt would wait for ever for a writer that has failed.
    with memory.open("rb") as source:
        header = source.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise LabError(f"'{memory}' is not what was saved.")
    _, version, length, _, compression, _ = _HEADER.unpack(header)
    text = xml.encode() + b"\0"
    beginning = _HEADER.pack(_MAGIC, version, len(text), 1, compression, 0) + text
    with tempfile.TemporaryDirectory(dir=memory.parent, prefix=".pipe-") as directory:
        pipe = Path(directory) / "pipe"
        os.mkfifo(pipe, 0o600)
        done = threading.Event()
        arguments = (pipe, beginning, memory, _HEADER.size + length, done)
        writer = threading.Thread(target=_write, args=arguments, daemon=True)
        writer.start()
        try:
            yield pipe
        finally:
            done.set()
            writer.join()


def _write(pipe: Path, beginning: bytes, memory: Path, offset: int, done: threading.Event) -> None:
    target = _open_when_read(pipe, done)
    if target is None:
        return
    try:
        with target, memory.open("rb") as source:
            target.write(beginning)
            source.seek(offset)
            shutil.copyfileobj(source, target, 2**20)
    except OSError:
        return  # The pipe ends early, and libvirt says what it misses; or it did not want to read on.


def _open_when_read(pipe: Path, done: threading.Event) -> BinaryIO | None:
    while not done.is_set():
        try:
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # Nobody reads yet.
            time.sleep(0.01)
        else:
            os.set_blocking(descriptor, True)
            return os.fdopen(descriptor, "wb", buffering=0)
    return None
