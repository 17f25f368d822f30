"""What labctl has to know of an operating system; the names and facts are data in cloud-init/guests."""

from typing import Literal

from pydantic import Field, ValidationError

from labctl.base.errors import InputError, LabError, Problem
from labctl.base.resources import GUESTS
from labctl.base.suggest import did_you_mean
from labctl.base.types import Line, Model, Name
from labctl.base.yamlfile import read_file
from labctl.language.services import Timing

DEFAULT = "centos-7"
"""What the course is taught on."""


class Source(Model):
    """A disk image that the guest's distributor publishes, pinned by its digest."""

    mirror: Line
    """URL of the distributor's directory, which other servers have copies of."""
    path: Line
    """Where the image is below it."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int | None = Field(default=None, ge=1)
    """Bytes, where it is known."""

    @property
    def url(self) -> str:
        """Where to pull it from."""
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
    """MiB for a node that does not say otherwise."""
    tcg_cpu: Line
    """The CPU model under TCG; a plain one boots faster than `max`."""
    recipe: Line
    """The script in cloud-init/images that builds the image: where there are sources, in a machine on one of them."""
    packages: str = Field(default="", exclude=True)
    """URL of the distributor's package mirror, which the recipe installs from."""
    sources: list[Source] = Field(default=[], exclude=True)
    """Where the distributor's image can be had, the best first. Not exported: a plan and its digest go without it."""
    isos: dict[str, str] = Field(default={}, exclude=True)
    """Names of installation discs that the recipe can install from, with their sha256."""
    lacks: dict[str, Line] = Field(default={}, exclude=True)
    """Types of services that it cannot run, each with the reason as the end of a sentence."""
    versions: dict[str, Line] = Field(default={}, exclude=True)
    """Of the packages that steps and checks are made for, as far as it matters; `doctor --guest` asks for them."""
    keepalived: Timing
    """How fast its keepalived moves an address."""
    facts: dict[str, str]
    """Paths, units and packages, for the steps' templates."""


def names() -> list[str]:
    """The known guests."""
    return sorted(path.stem for path in GUESTS.glob("*.yaml"))


def buildable() -> Guest:
    """A guest whose image labctl can build of packages alone."""
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
