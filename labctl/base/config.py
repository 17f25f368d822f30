"""The user's settings file, and whether labctl may open connections."""

import os
from urllib.parse import urlsplit

from pydantic import ValidationError

from labctl.base import paths
from labctl.base.errors import InputError, LabError, Problem
from labctl.base.suggest import did_you_mean
from labctl.base.types import Line, Model, Name
from labctl.base.yamlfile import read_file

OFFLINE = "LABCTL_OFFLINE"
"""The environment variable that carries --offline to every place that opens a connection, in child processes too."""


class Config(Model):
    """Defaults for what a command line does not say."""

    guest: Name | None = None
    """The guest for every lab, instead of the topology's own."""
    mirror: Line | None = None
    """The Debian mirror that images are built from."""
    offline: bool = False
    """Refuse to open connections to other machines."""


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


def must_reach(uri: str) -> None:
    """Raise LabError if the libvirt at `uri` is on another machine and labctl is offline."""
    if urlsplit(uri).netloc:
        must_be_online(f"connect to '{uri}'")


def must_be_online(what: str) -> None:
    """Raise LabError if labctl is offline; `what` says what it would do over the network, as in "download FILE"."""
    chosen = os.environ.get(OFFLINE)
    if chosen == "1" or (chosen is None and load().offline):
        raise LabError(f"labctl is offline, so it does not {what}.",
                       hint="'labctl bundle load FILE' and 'labctl image import GUEST FILE' need no network; "
                            "'labctl --online …' opens connections all the same.")
