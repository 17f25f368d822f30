"""The command line: the only package that prints. Each module adds its commands when it is imported, so the order of
the imports is the order in the help."""

from labctl.cli import (  # noqa: I001
    labs, checks, drills, top, nodes, power, faults, packets, steps, checkpoints, topologies, doctor, images, bundles,
)
from labctl.cli.common import app

__all__ = [
    "app", "bundles", "checkpoints", "checks", "doctor", "drills", "faults", "images", "labs", "nodes", "packets",
    "power", "steps", "top", "topologies",
]
