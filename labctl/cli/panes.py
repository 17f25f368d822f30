"""How `labctl top` looks: the tables of a snapshot, in as many columns and lines as a terminal has. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from labctl.base.progress import GATES, Gate
from labctl.base.text import counted, visible
from labctl.observe.overview import AnswersView, NodeView, RowView, Snapshot

LEAST_WIDTH, LEAST_HEIGHT = 76, 20
KEYS = "↑↓ 1-9 node  c crash  f freeze  u unplug  s stop  h heal  H heal all  q quit"
_STATES = {"running": "green", "paused": "yellow"}
_COLOURS = ("blue", "magenta", "cyan", "yellow", "green")
_NAME, _COUNTS = 16, 12
_SURE_LINES = 2
"""What each table has at least, if it has so much."""


@dataclass(frozen=True)
class Signs:
    """The characters that something is drawn with."""

    bars: str = " ▁▂▃▄▅▆▇█"
    gates: str = "●○"
    mark: str = "▶"
    keys: str = KEYS

    @property
    def all(self) -> str:
        """Every one of them."""
        return self.bars + self.gates + self.mark + self.keys


PLAIN = Signs(" .:-=+*#@", "*.", ">", KEYS.removeprefix("↑↓ "))


@dataclass(frozen=True)
class Hand:
    """What the person at the keys has chosen, and what they are told."""

    node: str
    status: str = ""
    wrong: bool = False
    """Whether that is an error"""


@dataclass
class _Pane:
    """A table: the heading of each column, how wide it is (0: the rest), and the lines."""

    columns: Sequence[tuple[str, int]]
    rows: Sequence[Sequence[Text]]
    last: bool = False
    """Whether the last lines matter more than the first ones"""
    first: int = 0
    """The first line that is shown"""
    lines: int = 0
    """How many lines are shown"""

    @property
    def heading(self) -> int:
        return 1 if any(name for name, _ in self.columns) else 0

    def see(self, row: int) -> None:
        """Have a line be among those that are shown."""
        self.first = max(0, min(row, row - self.lines + 1))

    def draw(self) -> Table:
        grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=True,
                     show_header=bool(self.heading), header_style="bold")
        hidden = len(self.rows) - self.lines
        for number, (name, width) in enumerate(self.columns):
            more = f" ({hidden} more)" if hidden and number == len(self.columns) - 1 else ""
            grid.add_column(name + more, width=width or None, ratio=None if width else 1, no_wrap=True,
                            overflow="ellipsis")
        first = hidden if self.last else self.first
        for row in self.rows[first:first + self.lines]:
            grid.add_row(*row)
        return grid


def view(snapshot: Snapshot, width: int, height: int | None, hand: Hand | None = None, *, signs: Signs,
         zone: tzinfo | None = None) -> RenderableType:
    """The tables, in so many columns and lines; without a height they are as long as they are.

    `hand` is there if there is somebody at the keys. Times are those of `zone`, by default of the machine.
    """
    if width < LEAST_WIDTH or (height is not None and height < LEAST_HEIGHT):
        return Text(f"The terminal has {width} × {height} characters;\nthis needs {LEAST_WIDTH} × {LEAST_HEIGHT}.")
    nodes = _nodes(snapshot, hand, signs)
    panes = [nodes, _vips(snapshot), *([_balancer(snapshot)] if snapshot.table else []),
             _answers(snapshot, width, signs), _faults(snapshot, zone), _transitions(snapshot, zone)]
    panes = [pane for pane in panes if pane.rows or pane.heading]
    below = 2 if hand else 0
    gaps = _share(panes, None if height is None else height - 1 - below)
    if hand:
        nodes.see([node.name for node in snapshot.nodes].index(hand.node))
    drawn: list[RenderableType] = [_title(snapshot, width)]
    for pane in panes:
        drawn += [*([Text()] if gaps else []), pane.draw()]
    if hand:
        used = 1 + sum(pane.heading + pane.lines for pane in panes) + gaps * len(panes)
        drawn += [Text()] * max(0, (height or 0) - used - below)
        drawn += [_line(visible(hand.status), "bold red" if hand.wrong else "bold"), _line(signs.keys, "reverse")]
    return Group(*drawn)


def _share(panes: Sequence[_Pane], lines: int | None) -> bool:
    """Give lines to panes, the first ones first; returns whether there is room for empty lines between them."""
    if lines is None:
        for pane in panes:
            pane.lines = len(pane.rows)
        return True
    left = lines - sum(pane.heading for pane in panes)
    for pane in panes:
        pane.lines = min(len(pane.rows), _SURE_LINES)
        left -= pane.lines
    gaps = left >= len(panes) + sum(len(pane.rows) - pane.lines for pane in panes[:-1])
    left -= len(panes) if gaps else 0
    for pane in panes:
        more = max(0, min(left, len(pane.rows) - pane.lines))
        pane.lines += more
        left -= more
    return gaps


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _title(snapshot: Snapshot, width: int) -> Text:
    if snapshot.silent is not None:
        now = Text(f"nobody answers for {snapshot.silent:.1f} s", "bold red")
    elif not snapshot.asks:
        now = Text("nothing is heard of requests", "yellow")
    elif snapshot.serves:
        now = Text("serves", "bold green")
    else:
        now = Text("not all is well", "yellow")
    asked = f"  {snapshot.address}:{snapshot.port}, {snapshot.rate:g} requests a second"
    name = Text(visible(snapshot.lab), "bold")
    room = max(1, width - name.cell_len - now.cell_len - 2)
    return Text.assemble(name, f"{asked[:room]:<{room}}", "  ", now, no_wrap=True, overflow="ellipsis")


def _nodes(snapshot: Snapshot, hand: Hand | None, signs: Signs) -> _Pane:
    rows = []
    for number, node in enumerate(snapshot.nodes, 1):
        chosen = hand is not None and hand.node == node.name
        mark = f"{signs.mark if chosen else ' '}{number if number < 10 else ' '} " if hand else ""
        rows.append([Text(mark + node.name, "bold reverse" if chosen else ""),
                     Text(visible(node.state), _STATES.get(node.state, "red")), _gate(node, signs),
                     Text(visible(_about(node, snapshot)), "red" if node.lacks else "")])
    return _Pane([("NODE", _NAME + 3 if hand else _NAME), ("STATE", 8), ("GATES", 17), ("", 0)], rows)


def _gate(node: NodeView, signs: Signs) -> Text:
    gate: Gate | None = node.gate
    if gate is None:
        return Text()
    passed = GATES.index(gate) + 1
    return Text.assemble((signs.gates[0] * passed, "green"), (signs.gates[1] * (len(GATES) - passed), "dim"),
                         f" {gate}")


def _about(node: NodeView, snapshot: Snapshot) -> str:
    """What there is to say of a node besides."""
    if node.lacks:
        return ", ".join(f"{unit} is {what}" for unit, what in node.lacks.items())
    if node.answers is False and node.state == "running":
        return "does not answer"
    return ", ".join(f"has {vip.address}" for vip in snapshot.vips if node.name in vip.holders)


def _vips(snapshot: Snapshot) -> _Pane:
    rows = []
    for vip in snapshot.vips:
        said = f"held by {' and '.join(vip.holders)}" if vip.holders else "held by nobody"
        if vip.silent:
            said += f"; {' and '.join(vip.silent)} {'do' if len(vip.silent) > 1 else 'does'} not say"
        rows.append([Text.assemble(("VIP ", "bold"), str(vip.address)),
                     Text(said, "" if len(vip.holders) == 1 else "bold red")])
    return _Pane([("", _NAME + 4), ("", 0)], rows)


def _balancer(snapshot: Snapshot) -> _Pane:
    current = [row for row in snapshot.table if row.current]
    rows = current or [row for row in snapshot.table if row.director == snapshot.table[0].director]
    directors = " and ".join(dict.fromkeys(row.director for row in rows))
    return _Pane([(f"IPVS ON {directors}", _NAME), ("SERVER", _NAME), ("WEIGHT", 6), ("ACTIVE", 6), ("INACT", 6),
                  ("CONN/S", 6), ("PACKETS/S", 0)], [_row(row) for row in rows])


def _row(row: RowView) -> list[Text]:
    if row.weight is None:
        return [Text(row.service), Text(visible(row.server)), Text("out", "red"), *[Text()] * 4]
    return [Text(row.service), Text(visible(row.server)), Text(str(row.weight), "" if row.weight else "yellow"),
            *(Text(str(count)) for count in (row.active, row.inactive, row.connections, row.packets))]


def _answers(snapshot: Snapshot, width: int, signs: Signs) -> _Pane:
    seconds = min(len(snapshot.lost_seconds), width - _NAME - _COUNTS)
    lost = AnswersView(server="lost", total=sum(snapshot.lost.values()), seconds=snapshot.lost_seconds)
    rows = []
    for number, one in enumerate([*snapshot.answers, *([lost] if lost.total else [])]):
        style = "red" if one is lost else _COLOURS[number % len(_COLOURS)]
        shown = one.seconds[-seconds:]
        bars = "".join(signs.bars[min(8, -int(-8 * count // max(1.0, snapshot.rate)))] for count in shown)
        rows.append([Text(visible(one.server) or "?", "red" if one is lost else ""), Text(f"{one.total:>6}"),
                     Text(f"{one.seconds[-1]:>3}"), Text(bars, style)])
    return _Pane([("ANSWERS", _NAME), (" TOTAL", 6), (" /S", 3), (f"LAST {counted(seconds, 'SECOND').upper()}", 0)],
                 rows)


def _faults(snapshot: Snapshot, zone: tzinfo | None) -> _Pane:
    rows = []
    for fault in snapshot.faults:
        heals = f"{fault.until.astimezone(zone):%H:%M:%S}" if fault.until else ""
        if fault.over:
            heals = f"when {fault.nodes[0]} can be reached"
        rows.append([Text(str(fault.id)), Text(f"{fault.since.astimezone(zone):%H:%M:%S}"),
                     Text(visible(fault.what), "red"),
                     Text(", ".join(filter(None, [f"heals {heals}" if heals else "",
                                                  "" if fault.by == "user" else "by a check"])))])
    what = "BROKEN ON PURPOSE" if rows else "NOTHING IS BROKEN ON PURPOSE"
    return _Pane([("ID", 4), ("SINCE", 8), (what, 0), ("", 0)] if rows else [(what, 0)], rows)


def _transitions(snapshot: Snapshot, zone: tzinfo | None) -> _Pane:
    rows = []
    for one in snapshot.transitions:
        at = one.at.astimezone(zone)
        style = "red" if one.text == "nobody answers" else "green" if one.text.startswith("answers again") else ""
        rows.append([Text(f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"), Text(visible(one.text), style)])
    return _Pane([("TIME", 12), ("WHAT HAPPENED", 0)], rows, last=True)
