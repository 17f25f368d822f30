"""The user's settings file."""

from pydantic import ValidationError

from labctl import paths
from labctl.errors import InputError, LabError, Problem
from labctl.site import Line, Model, Name
from labctl.suggest import did_you_mean
from labctl.yamlfile import read_file


class Config(Model):
    """What holds where a command line says nothing else."""

    guest: Name | None = None
    """The guest for every lab, instead of the topology's own."""
    mirror: Line | None = None
    """The Debian mirror that images are built from."""


def load() -> Config:
    """Read the settings; an absent file means none. Raises InputError."""
    path = paths.config_file()
    if not path.exists():
        return Config()
    try:
        document = read_file(path)
    except OSError as error:
        raise LabError(f"'{path}' cannot be read: {error.strerror}.") from None
    if document.data is not None and not isinstance(document.data, dict):
        raise InputError(path, [Problem(1, "the settings are a mapping such as 'guest: debian-12'.")])
    try:
        return Config.model_validate(document.data or {})
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_url=False):
            name = ".".join(map(str, detail["loc"]))
            unknown = f"unknown setting '{name}'. {did_you_mean(name, Config.model_fields)}"
            text = unknown if detail["type"] == "extra_forbidden" else f"{name}: {detail['msg']}."
            problems.append(Problem(document.line_of(detail["loc"]), text))
        raise InputError(path, problems) from None
