"""What labctl has to know about an operating system; names and facts are data in cloud-init/guests."""

from typing import Literal

from pydantic import Field, ValidationError

from labctl.base.errors import InputError, LabError, Problem
from labctl.base.resources import GUESTS
from labctl.base.suggest import did_you_mean
from labctl.base.types import Line, Model, Name
from labctl.base.yamlfile import read_file
from labctl.language.services import Timing

DEFAULT = "centos-7"
"""The guest that the course uses."""


class Source(Model):
    """A disk image that the guest's distributor publishes, pinned by its digest."""

    mirror: Line
    """URL of the distributor's directory, which other servers mirror."""
    path: Line
    """The image's path below it."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int | None = Field(default=None, ge=1)
    """In bytes; None if unknown."""

    @property
    def url(self) -> str:
        """The image's URL."""
        return f"{self.mirror.rstrip('/')}/{self.path}"


class Guest(Model):
    """An operating system that nodes can run."""

    name: Name
    title: Line
    family: Literal["debian", "redhat"]
    boot: Literal["direct", "disk"]
    """`direct`: the image has a kernel and an initrd of its own beside the disk; `disk`: the BIOS boots it."""
    kernel_args: str = ""
    memory: int = Field(ge=128)
    """A node's default, in MiB."""
    tcg_cpu: Line
    """The CPU model under TCG; a plain one boots faster than `max`."""
    recipe: Line
    """The script in cloud-init/images that builds the image; for a guest with sources, in a machine on a base."""
    packages: str = Field(default="", exclude=True)
    """URL of the distributor's package mirror, from which the recipe installs."""
    sources: list[Source] = Field(default=[], exclude=True)
    """The distributor's images, the best first. Excluded from a plan and its digest."""
    isos: dict[str, str] = Field(default={}, exclude=True)
    """Names of installation discs that the recipe can install from, with their sha256."""
    lacks: dict[str, Line] = Field(default={}, exclude=True)
    """Types of services that it cannot run, each with the reason as the end of a sentence."""
    versions: dict[str, Line] = Field(default={}, exclude=True)
    """Versions of packages that steps and checks rely on; `doctor --guest` compares them."""
    keepalived: Timing
    """How fast its keepalived moves an address."""
    facts: dict[str, str]
    """Paths, units and packages, for the steps' templates."""


def names() -> list[str]:
    """The known guests."""
    return sorted(path.stem for path in GUESTS.glob("*.yaml"))


def buildable() -> Guest:
    """A guest whose image labctl can build from packages alone."""
    return next(guest for guest in map(load, names()) if not guest.sources)


def load(name: str) -> Guest:
    """Read a guest's facts. Raises LabError for an unknown name."""
    if name not in names():
        raise LabError(f"There is no guest called '{name}'.", hint=did_you_mean(name, names()))
    path = GUESTS / f"{name}.yaml"
    try:
        return Guest.model_validate({"name": name, **read_file(path).data})
    except ValidationError as error:
        raise InputError(path, [Problem(1, str(error))]) from None
