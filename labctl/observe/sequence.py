"""The way of a request as a sequence diagram in SVG: where everything is, and a template that draws it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap

from jinja2 import Environment, PackageLoader, StrictUndefined

from labctl.observe.hops import Hop, Trace

_COLUMN, _MARGIN, _TOP = 250, 130, 96
_LINE, _HOP = 16, 34
"""Pixels: a line of text, and an arrow with the text above it."""
_NOTE_WIDTH = 30
"""Characters in a line of a note"""


@dataclass(frozen=True)
class Arrow:
    """A hop, from one line of life to another; `lost` where it arrives nowhere."""

    start: float
    end: float
    y: float
    above: str
    below: str
    direction: str
    lost: bool


@dataclass(frozen=True)
class Box:
    """What a node does, at its line of life."""

    x: float
    y: float
    width: float
    height: float
    lines: list[str]
    step: str
    kind: str


def svg(trace: Trace) -> str:
    """A picture for light and dark backgrounds."""
    names = list(dict.fromkeys(name for hop in trace.hops for name in (hop.sender, hop.receiver) if name))
    names = names or [trace.client]
    places = {name: _MARGIN + _COLUMN * number for number, name in enumerate(names)}
    y, shapes = float(_TOP), list[Arrow | Box]()
    for hop in trace.hops:
        for box in _note(hop, places, y):
            shapes.append(box)
            y += box.height + 12
        y += _HOP
        end = places[hop.receiver] if hop.receiver else places[hop.sender] + _COLUMN / 2
        inside = f"in {hop.tunnel[0]} > {hop.tunnel[1]}" if hop.tunnel else hop.carries
        shapes.append(Arrow(places[hop.sender], end, y, f"{hop.source} > {hop.target}", inside, hop.direction,
                            hop.receiver is None))
        y += _HOP - 8
    trouble = [line for text in ([trace.trouble.message, *(f"- {reason.text}" + (
        f" ({reason.step})" if reason.step else "") for reason in trace.trouble.reasons)] if trace.trouble else [])
        for line in wrap(text, max(40, int(_COLUMN * len(names) / 7)))]
    width = max(2 * _MARGIN + _COLUMN * (len(names) - 1), 420)
    template = Environment(loader=PackageLoader("labctl.observe", "."), undefined=StrictUndefined, autoescape=True,
                           trim_blocks=True, lstrip_blocks=True).get_template("sequence.svg.j2")
    return template.render(trace=trace, places=places, shapes=shapes, trouble=trouble, width=width, top=_TOP,
                           bottom=y + 8, height=y + 24 + _LINE * (len(trouble) + 1 if trouble else 0), line=_LINE)


def _note(hop: Hop, places: dict[str, int], y: float) -> Iterator[Box]:
    if hop.note is None:
        return
    lines = [line for text in (hop.note.text, *hop.note.rewritten) for line in wrap(text, _NOTE_WIDTH)]
    step = hop.note.step or ""
    height = _LINE * (len(lines) + bool(step)) + 10
    yield Box(places[hop.sender] - 100, y + 10, 200, height, lines, step, hop.direction)
