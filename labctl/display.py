"""How things look: live progress, tables, sheets. Prints to the console it is given."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from labctl.plan import Plan, PlannedNode
from labctl.progress import GATES, Gate

_WORKING = {
    "defined": "making its disk", "booting": "starting", "ssh": "booting", "configured": "being configured",
    "units": "starting its services", "serving": "waiting for the lab to serve",
}
"""What a node is doing while it has not yet passed the gate."""


def data(value: Any, output: str) -> str:
    """A value as JSON or YAML."""
    if output == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip()


def table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under headings, as wide as they need to be."""
    grid = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        grid.add_row(*(escape(cell) for cell in row))
    grid.width = console.measure(grid, options=console.options.update(width=10_000)).maximum
    console.print(grid, soft_wrap=True)


class PlainProgress:
    """A line per event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def say(self, text: str) -> None:
        """See Progress."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def passed(self, node: str, gate: Gate) -> None:
        """See Progress."""
        self.say(f"{time.monotonic() - self._start:6.1f} s  {node}: {gate}")


class LiveProgress:
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

    def say(self, text: str) -> None:
        """See Progress."""
        self._live.console.print(text, markup=False, highlight=False)

    def passed(self, node: str, gate: Gate) -> None:
        """See Progress."""
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


def sheet(plan: Plan, nodes: Sequence[PlannedNode], line: Callable[[str], None]) -> None:
    """What a person would type on each node, and why: Markdown."""
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
            line("\nTo take it back:\n")
            line("\n".join(_indented(command) for command in step.undo))


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.rstrip("\n").splitlines())


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def mapping_rows(states: Mapping[str, str], nodes: Sequence[PlannedNode]) -> list[list[str]]:
    """A node's name, state and addresses."""
    return [[node.name, states[node.name],
             ", ".join(f"{interface.name} {interface.address}/{interface.prefix}" for interface in node.interfaces),
             f"{node.memory} MiB"] for node in nodes]
