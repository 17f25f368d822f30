"""A lab's SSH keys: one to log in with, and one host key per node."""

import shutil
import stat
from pathlib import Path

from labctl.base.errors import LabError
from labctl.base.process import run
from labctl.plan.plan import Plan
from labctl.plan.seed import KeyPair, Keys

_LARGEST = 2**14
"""The most bytes in the file of a key."""


def make(directory: Path, plan: Plan) -> None:
    """Make the keys of a lab in a new directory. Raises LabError."""
    directory.mkdir(mode=0o700)
    for name in _names(plan):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"labctl {plan.lab}", "-f", directory / name])


def read(directory: Path, plan: Plan) -> Keys:
    """The keys in a directory. Raises LabError if one is missing or does not look like a key."""
    def text(name: str) -> str:
        try:
            status = (directory / name).lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST:
                return (directory / name).read_text()
        except (OSError, UnicodeDecodeError):
            pass
        raise LabError(f"'{directory / name}' is not a key of the lab '{plan.lab}'.")

    def pair(name: str) -> KeyPair:
        public = text(f"{name}.pub")
        if len(public.splitlines()) != 1:  # Further lines would become entries of known_hosts.
            raise LabError(f"'{directory / name}.pub' is not one key.")
        return KeyPair(text(name), public)

    return Keys(pair("login"), {node.name: pair(f"host.{node.name}") for node in plan.nodes})


def bring(source: Path, target: Path, plan: Plan) -> None:
    """Copy the keys of one directory into another one, replacing those there. Raises LabError, OSError."""
    read(source, plan)
    target.mkdir(mode=0o700, exist_ok=True)
    for name in _names(plan):
        for file in (name, f"{name}.pub"):
            shutil.copy(source / file, target / file)


def _names(plan: Plan) -> list[str]:
    return ["login", *(f"host.{node.name}" for node in plan.nodes)]
