"""Output: live progress, tables, sheets. Prints to the console it is given."""

import json
import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, TextIO

import yaml
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeRemainingColumn, TransferSpeedColumn
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from labctl.base import progress
from labctl.base.progress import GATES, Gate
from labctl.base.text import visible
from labctl.plan.plan import Plan, PlannedNode

_WORKING = {
    "defined": "making its disk", "booting": "starting", "ssh": "booting", "configured": "being configured",
    "units": "starting its services", "serving": "waiting for the lab to serve",
}
"""What a node is doing before it passes the gate."""
EXERCISE = ("The lab is an exercise: which steps are done is not shown, since finding out what is wrong is the point. "
            "'labctl test' shows what does not work.")
"""Shown instead of the states of steps."""


def data(value: Any, output: str) -> str:
    """A value as JSON or YAML."""
    if output == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip()


def table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings, as wide as they need to be."""
    grid = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        grid.add_row(*(escape(visible(cell)) for cell in row))
    grid.width = console.measure(grid, options=console.options.update(width=10_000)).maximum
    console.print(grid, soft_wrap=True)


def can_show(console: Console, text: str) -> bool:
    """Whether a console's encoding can express all characters of a text."""
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:
        return False
    return True


class JsonLines(progress.Progress):
    """A JSON object per event on a line of its own, for other programs."""

    def __init__(self, console: Console) -> None:
        self._file = console.file
        self._start = time.monotonic()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def event(self, kind: str, **facts: Any) -> None:
        """Print an event."""
        self._file.write(json.dumps({"event": kind, **facts}) + "\n")
        self._file.flush()

    @override
    def say(self, text: str) -> None:
        self.event("message", text=text)

    @override
    def passed(self, node: str, gate: Gate) -> None:
        self.event("gate", node=node, gate=gate, seconds=round(time.monotonic() - self._start, 3))


class Passing:
    """Passes on a guest's output: unchanged to a file or a pipe, with visible control characters to a terminal."""

    def __init__(self, stream: TextIO, prefix: str = "") -> None:
        self._stream = stream
        self._prefix = prefix
        self._by_line = stream.isatty() or bool(prefix)
        self._rest = b""

    def __enter__(self) -> "Passing":
        return self

    def __exit__(self, *_: object) -> None:
        if self._rest:
            self._line(self._rest)

    def write(self, data: bytes) -> None:
        """Pass output on: whole lines if they are changed on the way, otherwise all of it."""
        if self._by_line:
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._line(line)
        else:
            self._stream.buffer.write(data)
        self._stream.flush()

    def _line(self, line: bytes) -> None:
        if self._stream.isatty():
            self._stream.write(visible(f"{self._prefix}{line.decode(errors='replace')}\n"))
        else:
            self._stream.buffer.write(self._prefix.encode() + line + b"\n")


class PlainProgress(progress.Progress):
    """A line per event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(self, *_: object) -> None:
        return

    @override
    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @override
    def passed(self, node: str, gate: Gate) -> None:
        self.say(f"{time.monotonic() - self._start:6.1f} s  {node}: {gate}")


class LiveProgress(progress.Progress):
    """A table of nodes and what each is doing, redrawn while it changes."""

    def __init__(self, console: Console, nodes: Sequence[PlannedNode]) -> None:
        self._console = console
        self._start = time.monotonic()
        self._gates: dict[str, Gate | None] = {node.name: None for node in nodes}
        self._since = dict.fromkeys(self._gates, self._start)
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> "LiveProgress":
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    @override
    def say(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    @override
    def passed(self, node: str, gate: Gate) -> None:
        self._gates[node] = gate
        self._since[node] = time.monotonic()

    def _render(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        style = Text.from_markup
        now = time.monotonic()
        for node, gate in self._gates.items():
            passed = GATES.index(gate) + 1 if gate else 0
            bar = "[green]" + "●" * passed + "[/][dim]" + "○" * (len(GATES) - passed) + "[/]"
            if passed == len(GATES):
                grid.add_row(style("[green]✓[/]"), Text(node), style(bar), style("[green]serving[/]"), "")
            else:
                seconds = f"[dim]{now - self._since[node]:.0f} s[/]"
                grid.add_row(self._spinner, Text(node), style(bar), Text(_WORKING[GATES[passed]]), style(seconds))
        return grid


class PlainTransfer(progress.Transfer):
    """A few lines for a download, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._quarters = 0

    def __enter__(self) -> "PlainTransfer":
        return self

    def __exit__(self, *_: object) -> None:
        return

    @override
    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @override
    def moved(self, here: int, total: int | None) -> None:
        quarters = here * 4 // total if total else 0
        if total and quarters > self._quarters:
            self.say(f"{size(here)} of {size(total)}")
        self._quarters = quarters


class LiveTransfer(progress.Transfer):
    """A bar with speed and time for a download."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
                                  TimeRemainingColumn(), console=console, transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> "LiveTransfer":
        self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.__exit__(None, None, None)

    @override
    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @override
    def moved(self, here: int, total: int | None) -> None:
        if self._task is None:
            self._task = self._progress.add_task("", completed=here, total=total)
        self._progress.update(self._task, completed=here, total=total)


def sheet(plan: Plan, nodes: Sequence[PlannedNode], line: Callable[[str], None]) -> None:
    """Print, as Markdown, what a person would type on each node, and why."""
    line(f"# {plan.topology.title}")
    for node in nodes:
        addresses = ", ".join(f"{interface.name} {interface.address}" for interface in node.interfaces)
        line(f"\n## {node.name} ({addresses})")
        for number, step in enumerate(node.steps, start=1):
            line(f"\n### {number}. {step.title} ({node.name}/{step.name})\n")
            line(step.why)
            for file in step.write_files:
                mode = "" if file.permissions == "0644" else f" (mode {file.permissions})"
                line(f"\nWrite {file.path}{mode}:\n")
                line(_indented(file.content))
            if step.runcmd:
                line("\nRun:\n")
                line("\n".join(_indented(command) for command in step.runcmd))
            line("\nTo undo it:\n")
            line("\n".join(_indented(command) for command in step.undo))


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.rstrip("\n").splitlines())


def size(count: float) -> str:
    """A number of bytes, for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def mapping_rows(states: Mapping[str, str], applied: Mapping[str, Set[str] | None],
                 nodes: Sequence[PlannedNode]) -> list[list[str]]:
    """The rows of a table with each node's name, state, addresses, memory and steps."""
    return [[node.name, states[node.name],
             ", ".join(f"{interface.name} {interface.address}/{interface.prefix}" for interface in node.interfaces),
             f"{node.memory} MiB", _applied(node, applied[node.name])] for node in nodes]


def _applied(node: PlannedNode, applied: Set[str] | None) -> str:
    if applied is None:
        return "?"
    undone = [step.name for step in node.steps if step.name not in applied]
    count = f"{len(node.steps) - len(undone)}/{len(node.steps)}"
    return f"{count}, undone: {', '.join(undone)}" if undone else count
