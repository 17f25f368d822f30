"""Topologies by name: the working directory's own, then the shipped ones."""

import re
from pathlib import Path

from labctl.errors import LabError
from labctl.resources import TOPOLOGIES
from labctl.site import NAME_PATTERN
from labctl.suggest import did_you_mean
from labctl.topology import Topology, parse


def names() -> dict[str, Path]:
    """All topologies that can be named."""
    found: dict[str, Path] = {}
    for directory in (TOPOLOGIES, Path("topologies")):
        found |= {path.stem: path for path in sorted(directory.glob("*.yaml"))}
    return found


def find(wanted: str) -> Path:
    """The file of a topology, given by name or as a path. Raises LabError with the nearest names."""
    if "/" in wanted or wanted.endswith((".yaml", ".yml")):
        path = Path(wanted)
        if not path.is_file():
            raise LabError(f"There is no file '{wanted}'.", hint="'labctl list --topologies' shows the known ones.")
        return path
    known = names()
    if wanted not in known:
        raise LabError(f"There is no topology called '{wanted}'.", hint=did_you_mean(wanted, known))
    return known[wanted]


def load(path: Path) -> Topology:
    """Read a topology file. Raises InputError with all its problems, LabError if it cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8", errors="surrogateescape")
    except OSError as error:
        raise LabError(f"'{path}' cannot be read: {error.strerror}.") from None
    return parse(text, path)


def lab_name(path: Path, wanted: str | None) -> str:
    """The lab's name: the one wanted, or the file's. Raises LabError if it is not fit to be one."""
    name = wanted or path.stem
    if not re.fullmatch(NAME_PATTERN.rstrip("$").lstrip("^"), name):
        raise LabError(f"'{name}' is no name for a lab: letters, digits and '-', at most 32 characters.",
                       hint="'--name NAME' gives it another one.")
    return name
