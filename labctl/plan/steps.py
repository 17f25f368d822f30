"""Steps: everything that is done to a guest, rendered from cloud-init/steps. Pure but for reading them."""

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
"""The guest's directory with an empty file for each step that is done, called like the step."""


class File(Model):
    """A file a step writes, whole."""

    path: str = Field(pattern="^/")
    content: str = Field(pattern=r"\n$")
    permissions: str = Field(default="0644", pattern="^0[0-7]{3}$")


class Template(Model):
    """A step as it is written in its YAML file: a cloud-config fragment and why it is needed."""

    title: str
    why: str
    write_files: list[File] = Field(default_factory=list)
    runcmd: list[str] = Field(default_factory=list)
    undo: list[str] = Field(min_length=1)
    units: list[str] = Field(default_factory=list)
    """What has to be active once the step is done."""


class Step(Template):
    """A step on one node, ready to run."""

    name: str
    """Unique on its node; `NODE/NAME` is how people and checks call it."""
    kind: str
    """The file it comes from, `ipvs/arp`."""
    service: str | None
    """The service that asked for it; None for what every node gets."""

    @property
    def marker(self) -> str:
        """The file that is there while the step is done, and not while it is being done or taken back."""
        return f"{MARKERS}/{self.name}"


# Shell and configuration files, not HTML: nothing is escaped.
_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True,
                            lstrip_blocks=True, autoescape=False)

_template = cache(_JINJA.from_string)
"""Nodes have the same steps, and to compile a template takes ten times as long as to fill it in."""


def render(placement: Placement, name: str, service: str | None, guest: Guest, secret: str) -> Step:
    """Fill in a step's template; strings are templates, structure is not, so values cannot change it.

    `secret` is what the service's nodes, and no others, use as a key.
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
    """The shell script that does a step on a running guest; stops at the first command that fails.

    A crash afterwards loses nothing of it: written files are empty for up to half a minute without the sync.
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
    """The shell script that takes a step back."""
    # Steps that remove a unit reload systemd themselves; a second time would cost seconds under TCG.
    once = 'systemctl() { command systemctl "$@" --no-reload; }'
    return "\n".join(["set -e", once, f"rm -f {step.marker}", *step.undo, "sync", ""])
