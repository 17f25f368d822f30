"""A drill as a picture (SVG) that reads at a glance: who answered, who had the address, how long nobody did. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from string import Template

from labctl.observe.course import Course
from labctl.observe.outage import Stretch

WIDTH = 960
_LEFT, _RIGHT = 118, 24
_LANE, _BAR = 26, 14
_HEAD, _MEASURE, _FOOT, _SPACE = 66, 46, 34, 26
_LETTER = 6.4
"""The width of a letter, about; there is no font to measure here."""
_DULL_SECONDS, _EDGE_SECONDS, _BREAK_SECONDS = 6.0, 1.5, 1.2
"""Where nothing happens for so long, only its edges are drawn to scale, and all between them as wide as the last."""
_NEAR_SECONDS = 0.3
"""A node says that it takes an address shortly before it has it."""
_STEPS = (0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800)
_TICK_PIXELS, _CLEAR_PIXELS = 46, 14
_MOST_SERVERS = 10

_COLOURS = 6
_LIGHT = {"page": "#ffffff", "text": "#1f2328", "faint": "#656d76", "line": "#d0d7de", "band": "#f3f4f6",
          "good": "#1a7f37", "fair": "#9a6700", "bad": "#cf222e", "gap": "#ffe0dd", "c0": "#0969da", "c1": "#8250df",
          "c2": "#0a7a8a", "c3": "#bf5700", "c4": "#5a7d00", "c5": "#a63a8c"}
_DARK = {"page": "#0d1117", "text": "#e6edf3", "faint": "#8d96a0", "line": "#373e47", "band": "#1a2029",
         "good": "#3fb950", "fair": "#d29922", "bad": "#ff6a61", "gap": "#4a1b1f", "c0": "#4493f8", "c1": "#ab7df8",
         "c2": "#39c5cf", "c3": "#f0883e", "c4": "#a5c93c", "c5": "#e275c4"}
_FORMS = Template("""
text { font: 13px system-ui, sans-serif }
.title { font-size: 19px; font-weight: 600 }
.figure { font-size: 24px; font-weight: 600 }
.faint, .inside { font-size: 12px }
.grid, .bound, .line, .tick { fill: none }
.bound { stroke-width: 1.5; stroke-dasharray: 5 4 }
.line { stroke-width: 3 }
.tick { stroke-width: 1.2 }
""")
_THEME = Template("""
.page { fill: $page } .band { fill: $band } .gap { fill: $gap } text, .mark { fill: $text } .faint { fill: $faint }
.inside { fill: $page }
.grid { stroke: $line } .bound { stroke: $text } .mark { stroke: $page }
""")
_INKS = ("good", "fair", "bad", *(f"c{number}" for number in range(_COLOURS)))
"""What is drawn in a colour of its own, filled or as a line."""


def draw(courses: Sequence[Course]) -> str:
    """The picture of some drills, one below the other."""
    panels = [_panel(course) for course in courses]
    height = sum(panel.height for panel in panels)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
             f'height="{height}" role="img">', f"<title>{escape('; '.join(map(_summary, courses)))}</title>", _style(),
             f'<rect class="page" width="{WIDTH}" height="{height}"/>']
    top = 0.0
    for panel in panels:
        parts += [f'<g transform="translate(0 {top})">', *panel.parts, "</g>"]
        top += panel.height
    return "\n".join([*parts, "</svg>", ""])


def _style() -> str:
    return (f"<style>{_FORMS.substitute()}{_rules(_LIGHT)}\n@media (prefers-color-scheme: dark) {{{_rules(_DARK)}}}\n"
            "</style>")


def _rules(theme: Mapping[str, str]) -> str:
    inks = "\n".join(f".{ink} {{ fill: {theme[ink]} }} .line.{ink}, .tick.{ink} {{ fill: none; stroke: {theme[ink]} }}"
                     for ink in _INKS)
    return _THEME.substitute(theme) + inks


class _Scale:
    """Seconds to pixels; where nothing happens for long, the axis is broken."""

    def __init__(self, start: float, end: float, moments: Sequence[float]) -> None:
        stops = sorted({start, end, *(moment for moment in moments if start < moment < end)})
        dull = max(_DULL_SECONDS, (end - start) / 8)
        self.breaks = [(one + _EDGE_SECONDS, other - _EDGE_SECONDS) for one, other in pairwise(stops)
                       if other - one > dull]
        self.start, self.end = start, end
        self.per_second = (WIDTH - _LEFT - _RIGHT) / self._shown(end)

    def _shown(self, moment: float) -> float:
        hidden = 0.0
        for begin, end in self.breaks:
            if moment > begin:
                hidden += (min(moment, end) - begin) * (1 - _BREAK_SECONDS / (end - begin))
        return moment - self.start - hidden

    def __call__(self, moment: float) -> float:
        return _LEFT + self.per_second * self._shown(min(max(moment, self.start), self.end))

    def ticks(self) -> Iterator[float]:
        """Round moments, away from where the axis is broken."""
        step = next((step for step in _STEPS if step * self.per_second >= _TICK_PIXELS), _STEPS[-1])
        for number in range(int(self.start / step) - 1, int(self.end / step) + 2):
            moment = number * step
            x = self(moment)
            if self.start <= moment <= self.end and not any(
                    self(begin) - _CLEAR_PIXELS < x < self(end) + _CLEAR_PIXELS for begin, end in self.breaks):
                yield moment


@dataclass
class _Panel:
    """What is drawn so far, from the top down."""

    scale: _Scale
    parts: list[str] = field(default_factory=list)
    height: float = 0

    def add(self, part: str) -> None:
        self.parts.append(part)

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>')

    def rect(self, start: float, end: float, y: float, height: float, style: str, title: str = "",
             radius: int = 0) -> None:
        left, right = self.scale(start), self.scale(end)
        inside = f"<title>{escape(title)}</title>" if title else ""
        self.add(f'<rect class="{style}" x="{left:.1f}" y="{y:.1f}" width="{max(1.0, right - left):.1f}" '
                 f'height="{height}" rx="{radius}">{inside}</rect>')

    def ticks(self, moments: Sequence[float], y: float, height: float, style: str) -> None:
        """A short line at each moment."""
        # Many are at the same pixel.
        places = dict.fromkeys(f"{self.scale(moment):.1f}" for moment in moments)
        if places:
            self.add(f'<path class="{style}" d="{"".join(f"M{x} {y:.0f}v{height}" for x in places)}"/>')

    def label(self, start: float, end: float, y: float, text: str, style: str = "") -> None:
        """A text above the middle of a time, and inside the picture."""
        half = len(text) * _LETTER / 2
        middle = (self.scale(start) + self.scale(end)) / 2
        self.text(min(max(middle, _LEFT + half), WIDTH - _RIGHT - half), y, text, style, "middle")


def _panel(course: Course) -> _Panel:
    panel = _Panel(_Scale(course.start, course.end, _moments(course)))
    timeline = course.timeline
    servers = sorted(timeline.servers())[:_MOST_SERVERS]
    holders = list(dict.fromkeys([*(held.who for held in course.holdings), *(event.node for event in course.events)]))
    lanes = len(servers) + 1
    top = _HEAD + _MEASURE
    middle = top + lanes * _LANE
    bottom = middle + _SPACE + len(holders) * _LANE
    _head(panel, course)
    _phases(panel, course, top - 4, bottom)
    for gap in course.gaps:
        panel.rect(gap.start, gap.end, top - 4, middle - top + 4, "gap", f"no answer for {gap.seconds:.3f} s")
    _axis(panel, bottom)
    for number, server in enumerate(servers):
        y = top + number * _LANE
        panel.text(_LEFT - 12, y + 15, server or "?", "", "end")
        panel.ticks([answer.ended for answer in timeline.answers if answer.server == server and not answer.scout],
                    y + 4, _BAR, f"tick c{number % _COLOURS}")
    y = top + len(servers) * _LANE
    panel.text(_LEFT - 12, y + 15, f"lost: {len(timeline.lost)}", "", "end")
    panel.ticks([request.began for request in timeline.lost], y + 4, _BAR, "tick bad")
    for number, node in enumerate(holders):
        _node(panel, course, node, f"c{(len(servers) + number) % _COLOURS}", middle + _SPACE + number * _LANE)
    _breaks(panel, top - 4, bottom)
    panel.text(24, middle + _SPACE - 8, f"who has {course.address}", "faint")
    _measure(panel, course, bottom)
    panel.height = bottom + _FOOT + _SPACE
    return panel


def _moments(course: Course) -> list[float]:
    """When something happens."""
    lost = [request.began for request in course.timeline.lost]
    return [0.0, course.heal, course.healed, *lost, *(held.start for held in course.holdings),
            *(held.end for held in course.holdings), *(event.at for event in course.events if event.at > 0),
            *(moment for gap in course.gaps for moment in (gap.start, gap.end))]


def _summary(course: Course) -> str:
    return f"{course.fault}: {_figure(course)}"


def _figure(course: Course) -> str:
    match course.promise.kind if course.promise else "takeover":
        case "takeover":
            return f"{course.measure:.3f} s without an answer"
        case "removal":
            return f"requests lost for {course.measure:.3f} s"
        case _:
            return f"{len(course.timeline.lost)} requests lost"


def _grade(course: Course) -> str:
    """As promised, still allowed, or worse."""
    if course.promise is None:
        return "fair"
    figure = len(course.timeline.lost) if course.promise.kind == "nothing" else course.measure
    return "good" if figure <= course.promise.seconds else "fair" if figure <= course.promise.allowed else "bad"


def _head(panel: _Panel, course: Course) -> None:
    panel.text(24, 32, course.fault, "title")
    panel.text(24, 52, f"{course.lab} · {course.address}:{course.port} · {course.rate:g} requests a second", "faint")
    panel.text(WIDTH - _RIGHT, 34, _figure(course), f"figure {_grade(course)}", "end")
    if course.promise:
        what = {"takeover": f"promised: an answer within {course.promise.seconds:.1f} s",
                "removal": f"promised: none lost after {course.promise.seconds:.1f} s",
                "nothing": "promised: none is lost"}[course.promise.kind]
        panel.text(WIDTH - _RIGHT, 53, what, "faint", "end")


def _phases(panel: _Panel, course: Course, top: float, bottom: float) -> None:
    panel.rect(0, course.heal, top, bottom - top, "band")
    words = [(0.0, course.heal, course.fault), (course.heal, course.healed, "heals"),
             (course.healed, course.end, "is back")]
    after = 0.0
    for start, end, text in words:
        x = max(panel.scale(start) + 4, after)
        if panel.scale(end) - x > len(text) * _LETTER * 0.8:
            panel.text(x, bottom + 30, text, "faint")
            after = x + len(text) * _LETTER + 8
        panel.add(f'<path class="grid" d="M{panel.scale(start):.1f} {top:.0f}V{bottom + 34:.0f}"/>')


def _axis(panel: _Panel, bottom: float) -> None:
    panel.add(f'<path class="grid" d="M{_LEFT} {bottom:.0f}H{WIDTH - _RIGHT}"/>')
    for moment in panel.scale.ticks():
        x = panel.scale(moment)
        panel.add(f'<path class="grid" d="M{x:.1f} {bottom:.0f}v4"/>')
        panel.text(x, bottom + 16, f"{moment:g} s" if moment == 0 else f"{moment:g}", "faint", "middle")


def _breaks(panel: _Panel, top: float, bottom: float) -> None:
    for begin, end in panel.scale.breaks:
        x = (panel.scale(begin) + panel.scale(end)) / 2
        panel.rect(begin, end, top, bottom - top, "page")
        panel.add(f'<path class="grid" d="M{x - 6:.1f} {bottom + 5:.0f}l4 -10M{x + 2:.1f} {bottom + 5:.0f}l4 -10"/>')
        panel.text(x, bottom + 16, f"{end - begin:.0f} s", "faint", "middle")


def _node(panel: _Panel, course: Course, node: str, ink: str, y: float) -> None:
    """A node's lane: when it had the address, and what it told."""
    panel.text(_LEFT - 12, y + 15, node, "", "end")
    held: list[Stretch] = [each for each in course.holdings if each.who == node]
    for each in held:
        panel.rect(each.start, each.end, y + 4, _BAR, ink,
                   f"{node} has {course.address} from {each.start:.3f} s to {each.end:.3f} s", 3)
    told = [event for event in course.events if event.node == node and event.kind != "vip" and event.at >= 0]
    places = [panel.scale(event.at) for event in told] + [float(WIDTH)]
    for event, x, room in zip(told, places, places[1:], strict=False):
        panel.add(f'<circle class="mark" cx="{x:.1f}" cy="{y + 4 + _BAR / 2:.0f}" r="4">'
                  f"<title>{event.at:.3f} s: {escape(node)} {escape(event.text)}</title></circle>")
        text = event.text.removeprefix("is ")
        if len(text) * _LETTER + 12 < room - x:
            inside = any(each.start - _NEAR_SECONDS < event.at < each.end - _NEAR_SECONDS for each in held)
            panel.text(x + 8, y + 15, text, "inside" if inside else "faint")


def _measure(panel: _Panel, course: Course, bottom: float) -> None:
    """How long it was, and how long it may be."""
    if course.promise and course.promise.kind == "nothing":
        return
    y = _HEAD + 16
    removal = course.promise is not None and course.promise.kind == "removal"
    silence = course.silence
    start = course.timeline.losing(0, course.heal).start if removal else silence.start if silence else 0.0
    end = start + course.measure
    grade = _grade(course)
    if course.measure:
        panel.add(f'<path class="line {grade}" d="M{panel.scale(start):.1f} {y}H{panel.scale(end):.1f}"/>')
        panel.label(start, end, y - 7, f"{course.measure:.3f} s", grade)
    if course.promise:
        x = panel.scale(start + course.promise.seconds)
        panel.add(f'<path class="bound" d="M{x:.1f} {y - 8}V{bottom:.0f}"/>')
        panel.text(x + 5, y + 14, f"promised: {course.promise.seconds:.1f} s", "faint")
