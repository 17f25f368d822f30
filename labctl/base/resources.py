"""Where the shipped data is: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
ROOT = _PACKAGE / "data" if (_PACKAGE / "data").is_dir() else _PACKAGE.parent

TOPOLOGIES = ROOT / "topologies"
GUESTS = ROOT / "cloud-init" / "guests"
STEPS = ROOT / "cloud-init" / "steps"
FAULTS = ROOT / "cloud-init" / "faults"
IMAGES = ROOT / "cloud-init" / "images"
CHECKS = ROOT / "tests" / "labs"
