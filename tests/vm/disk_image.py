"""A disk as a distributor publishes one, made of the image that is here: partitioned, and booted by the BIOS with GRUB.

Without root and loop devices: all is written into files at their offsets.
"""

import os
import shutil
import struct
import subprocess
from pathlib import Path

from labctl.images.store import Image

_PROGRAMS = Path(__file__).parents[2] / ".venv/programs"
"""Where `scripts/setup --dev` unpacks GRUB, as far as it is not installed."""
_BOOT = _PROGRAMS / "usr/lib/grub/i386-pc"
_SECTOR = 512
_FIRST = 2048
"""The sector at which the partition begins; GRUB is in the gap before it."""
_MODULES = ["biosdisk", "part_msdos", "ext2", "normal", "linux"]
_GRUB_CFG = """\
linux /boot/distributor.vmlinuz {arguments}
initrd /boot/distributor.initrd /boot/partition.cpio
boot
"""
_INIT = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod /modules/$module; done </list
until [ -b /dev/vda1 ]; do $b sleep 0.1; done
$b mount -t ext4 -o rw,noatime /dev/vda1 /new
exec $b switch_root /new /sbin/init
"""
"""The image's own looks for a file system on the whole disk."""
_CHANGES = """\
write {work}/vmlinuz /boot/distributor.vmlinuz
write {work}/initrd /boot/distributor.initrd
write {work}/partition.cpio /boot/partition.cpio
mkdir /boot/grub
write {work}/grub.cfg /boot/grub/grub.cfg
rm /etc/fstab
write {work}/fstab /etc/fstab
"""


def write(image: Image, kernel_arguments: str, target: Path, changes: str = "") -> None:
    """Write a bootable qcow2 of an image whose disk is one ext4 file system; cloud-init runs in it as ever.

    `changes` are more of debugfs's commands, for its file system.
    """
    assert image.kernel and image.initrd
    work = target.with_suffix(".work")
    work.mkdir()
    raw = work / "disk.raw"
    size = _virtual_size(image.disk)
    with raw.open("wb") as disk:
        disk.truncate(_FIRST * _SECTOR + size)
    _run("qemu-img", "convert", "-n", image.disk, "--target-image-opts",
         f"driver=raw,offset={_FIRST * _SECTOR},size={size},file.driver=file,file.filename={raw}")
    shutil.copyfile(image.kernel, work / "vmlinuz")
    shutil.copyfile(image.initrd, work / "initrd")
    (work / "partition.cpio").write_bytes(_cpio("init", _INIT.encode()))
    (work / "grub.cfg").write_text(_GRUB_CFG.format(arguments=kernel_arguments))
    (work / "fstab").write_text("LABEL=root / ext4 noatime 0 1\n")
    (work / "changes").write_text(_CHANGES.format(work=work) + changes)
    said = _run("debugfs", "-w", "-f", work / "changes", f"{raw}?offset={_FIRST * _SECTOR}")
    assert [line for line in said.splitlines() if line and not line.startswith(("debugfs", "Allocated inode: "))] == []
    with raw.open("r+b") as disk:
        disk.write(_boot_sector(size // _SECTOR))
        disk.write(_grub(work))
    _run("qemu-img", "convert", "-O", "qcow2", raw, target)
    shutil.rmtree(work)


def _boot_sector(sectors: int) -> bytes:
    """GRUB's first 440 bytes, and a table with one active Linux partition, addressed by its sectors alone."""
    code = (_BOOT / "boot.img").read_bytes()[:440]
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", _FIRST, sectors)
    return (code.ljust(446, b"\0") + entry).ljust(510, b"\0") + b"\x55\xaa"


def _grub(work: Path) -> bytes:
    """GRUB's core image, which its boot sector looks for in the sectors after itself."""
    core = work / "core.img"
    program = shutil.which("grub-mkimage", path=f"{_PROGRAMS / 'usr/bin'}:{os.environ['PATH']}")
    assert program, "'scripts/setup --dev' unpacks it"
    libraries = ":".join(str(path) for path in _PROGRAMS.glob("usr/lib/*-linux-gnu"))
    _run(program, "-O", "i386-pc", "-d", _BOOT, "-p", "(hd0,msdos1)/boot/grub", "-o", core, *_MODULES,
         LD_LIBRARY_PATH=libraries)
    assert core.stat().st_size < (_FIRST - 1) * _SECTOR
    return core.read_bytes()


def _cpio(name: str, content: bytes) -> bytes:
    """An archive of one executable file, as the kernel takes them (Documentation/driver-api/early-userspace)."""
    parts = b""
    for entry, mode, data in ((name, 0o100755, content), ("TRAILER!!!", 0, b"")):
        fields = [1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(entry) + 1, 0]
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + entry.encode() + b"\0"
        for part in (head, data):
            parts += part + bytes(-len(part) % 4)
    return parts


def _virtual_size(disk: Path) -> int:
    with disk.open("rb") as file:
        return int.from_bytes(file.read(32)[24:], "big")


def _run(*words: str | Path, **environment: str) -> str:
    return subprocess.run(words, check=True, env={**os.environ, **environment}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
