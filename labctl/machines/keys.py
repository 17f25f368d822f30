"""A lab's SSH keys: one to log in with, and one host key per node."""

from pathlib import Path

from labctl.base.process import run
from labctl.plan.plan import Plan
from labctl.plan.seed import KeyPair, Keys


def make(directory: Path, plan: Plan) -> None:
    """Make the keys of a lab in a new directory. Raises LabError."""
    directory.mkdir(mode=0o700)
    for name in ["login", *(f"host.{node.name}" for node in plan.nodes)]:
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"labctl {plan.lab}", "-f", directory / name])


def read(directory: Path, plan: Plan) -> Keys:
    """The keys in a directory."""
    def pair(name: str) -> KeyPair:
        return KeyPair((directory / name).read_text(), (directory / f"{name}.pub").read_text())

    return Keys(pair("login"), {node.name: pair(f"host.{node.name}") for node in plan.nodes})
