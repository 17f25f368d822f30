"""The command line: the only package that prints. Importing a module of it adds its commands."""

from labctl.cli import bundles, checkpoints, checks, doctor, images, labs, nodes, topologies
from labctl.cli.common import app

__all__ = ["app", "bundles", "checkpoints", "checks", "doctor", "images", "labs", "nodes", "topologies"]
