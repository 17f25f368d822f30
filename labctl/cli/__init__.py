"""The command line: the only package that prints. Importing a module of it adds its commands, and the order of the
imports is that of the help."""

from labctl.cli import (  # noqa: I001
    labs, checks, drills, nodes, power, steps, faults, checkpoints, topologies, doctor, images, bundles,
)
from labctl.cli.common import app

__all__ = [
    "app", "bundles", "checkpoints", "checks", "doctor", "drills", "faults", "images", "labs", "nodes", "power",
    "steps", "topologies",
]
