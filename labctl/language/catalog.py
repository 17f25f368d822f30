"""Topologies by name: the working directory's own, then the user's, then the shipped ones."""

import re
from collections.abc import Sequence
from pathlib import Path

from labctl.base import paths
from labctl.base.errors import LabError
from labctl.base.resources import TOPOLOGIES
from labctl.base.suggest import did_you_mean
from labctl.base.types import NAME_PATTERN
from labctl.language.topology import Topology, parse


def names() -> dict[str, Path]:
    """All topologies that can be given by name, with their files."""
    found: dict[str, Path] = {}
    for directory in (TOPOLOGIES, paths.topologies(), Path("topologies")):
        found |= {path.stem: path for path in sorted(directory.glob("*.yaml"))}
    return found


def is_path(wanted: str) -> bool:
    """Whether the user typed a path, not a name."""
    return "/" in wanted or wanted.endswith((".yaml", ".yml"))


def find(wanted: str) -> Path:
    """The file of a topology, given by name or as a path. Raises LabError with the nearest names."""
    if is_path(wanted):
        path = Path(wanted)
        if not path.is_file():
            raise LabError(f"There is no file '{wanted}'.", hint="'labctl list --topologies' shows the known ones.")
        return path
    known = names()
    if wanted not in known:
        file = Path(f"{wanted}.yaml")
        hint = f"The file here is called './{file}'." if file.is_file() else did_you_mean(wanted, known)
        raise LabError(f"There is no topology called '{wanted}'.", hint=hint)
    return known[wanted]


def load(path: Path, changes: Sequence[str] = ()) -> Topology:
    """Read a topology file as topology.parse does. Raises LabError also if the file cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8", errors="surrogateescape")
    except OSError as error:
        raise LabError(f"'{path}' cannot be read: {error.strerror}.") from None
    return parse(text, path, changes)


def copy(source: Path, wanted: str) -> Path:
    """Copy a topology file, comments and all, to `wanted`.yaml, or to `wanted` if that is a path.

    Raises LabError if the target exists, or if its name would not be a valid name for a lab.
    """
    path = Path(wanted if is_path(wanted) else f"{wanted}.yaml")
    lab_name(path, None)
    text = source.read_bytes()
    try:
        with path.open("xb") as file:
            file.write(text)
    except FileExistsError:
        raise LabError(f"'{path}' exists already, and is left as it is.",
                       hint="Choose another name, or remove it first.") from None
    return path


def lab_name(path: Path, wanted: str | None) -> str:
    """The lab's name: the wanted one, or else the file's. Raises LabError if it is not valid."""
    name = wanted or path.stem
    if not re.fullmatch(NAME_PATTERN.rstrip("$").lstrip("^"), name):
        raise LabError(f"'{name}' is not a valid name for a lab: letters, digits and '-', at most 32 characters.",
                       hint="Give the file another name, or the lab: 'labctl up --name NAME'.")
    return name
