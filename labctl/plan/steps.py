"""Steps: everything that is done to a guest, rendered from cloud-init/steps. Pure except for reading those files."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2
from pydantic import Field

from labctl.base.resources import STEPS
from labctl.base.types import Model
from labctl.base.yamlfile import read_file
from labctl.language.services import Placement
from labctl.plan.guests import Guest

MARKERS = "/var/lib/labctl/steps"
"""The guest's directory with an empty file for each step that is done, named after the step."""


class File(Model):
    """A file that a step writes as a whole."""

    path: str = Field(pattern="^/")
    content: str = Field(pattern=r"\n$")
    permissions: str = Field(default="0644", pattern="^0[0-7]{3}$")


class Template(Model):
    """A step as in its YAML file: a cloud-config fragment and the reason for it."""

    title: str
    why: str
    write_files: list[File] = Field(default_factory=list)
    runcmd: list[str] = Field(default_factory=list)
    undo: list[str] = Field(min_length=1)
    units: list[str] = Field(default_factory=list)
    """Units that have to be active once the step is done."""


class Step(Template):
    """A step on one node, ready to run."""

    name: str
    """Unique on its node; people and checks call the step `NODE/NAME`."""
    kind: str
    """The file it comes from, such as `ipvs/arp`."""
    service: str | None
    """The service that placed it; None for steps that every node gets."""

    @property
    def marker(self) -> str:
        """The guest's file that exists while the step is done, but not while it is being done or undone."""
        return f"{MARKERS}/{self.name}"


# The templates are shell and configuration files, not HTML, so nothing is escaped.
_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True,
                            lstrip_blocks=True, autoescape=False)

_template = cache(_JINJA.from_string)
"""Cached because many nodes have the same steps, and compiling a template takes longer than filling it in."""


def render(placement: Placement, name: str, service: str | None, guest: Guest, secret: str) -> Step:
    """Fill in a step's template. Only strings are templates, so values cannot change a step's structure.

    `secret` is a key that the nodes of one service share.
    """
    values = {**placement.values, "node": placement.node, "service": service, "guest": guest.facts, "secret": secret}
    filled = _fill(_fragment(placement.step, guest.family), values)
    return Step(name=name, kind=placement.step, service=service, **filled)


@cache
def _fragment(kind: str, family: str) -> Any:
    own = STEPS / f"{kind}.{family}.yaml"
    return read_file(own if own.exists() else STEPS / f"{kind}.yaml").data


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return _template(value).render(values)
    if isinstance(value, list):
        return [_fill(item, values) for item in value]
    if isinstance(value, dict):
        return {key: _fill(item, values) for key, item in value.items()}
    return value


def apply_script(step: Step) -> str:
    """The shell script that does a step on a running guest; it stops at the first command that fails.

    It ends with a sync, so that a crash afterwards loses nothing.
    """
    parts = ["set -e", f"rm -f {step.marker}"]
    for file in step.write_files:
        parts += [
            f"mkdir -p '{file.path.rpartition('/')[0] or '/'}'",
            f"cat >'{file.path}' <<'END-OF-FILE'\n{file.content}END-OF-FILE",
            f"chmod {file.permissions} '{file.path}'",
        ]
    return "\n".join([*parts, *step.runcmd, f"mkdir -p {MARKERS}", f"touch {step.marker}", "sync", ""])


def undo_script(step: Step) -> str:
    """The shell script that undoes a step."""
    # Steps that remove a unit reload systemd themselves; each reload costs seconds under TCG.
    once = 'systemctl() { command systemctl "$@" --no-reload; }'
    return "\n".join(["set -e", once, f"rm -f {step.marker}", *step.undo, "sync", ""])
