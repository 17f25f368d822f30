"""How it looks when somebody watches a lab: a picture that moves, or a line or an object for what happens."""

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from labctl.base.text import visible
from labctl.cli import display
from labctl.observe.outage import Timeline
from labctl.observe.ticker import Ticker, by_second

_BARS = " ▁▂▃▄▅▆▇█"
_PLAIN_BARS = " .:-=+*#@"
_COLOURS = ("blue", "magenta", "cyan", "yellow", "green")
_SECONDS = 60


class Lines:
    """A line for each thing that happens, and on a terminal below them who answers and how often."""

    def __init__(self, console: Console, what: str, rate: float) -> None:
        self._console = console
        self._what = what
        self._rate = rate
        self._bars = _BARS if display.can_show(console, _BARS) else _PLAIN_BARS
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._zero = datetime.now()

    def __enter__(self) -> Self:
        if self._live:
            self._live.__enter__()
        else:
            self._console.print(self._what, markup=False, soft_wrap=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.__exit__(None, None, None)

    def tell(self, at: float, text: str) -> None:
        """Something has happened."""
        moment = self._zero + timedelta(seconds=at)
        style = {"nobody answers": "red"}.get(text, "green" if text.startswith("answers again") else "")
        self._console.print(f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}  {visible(text)}", style=style,
                            markup=False, soft_wrap=True)

    def look(self, timeline: Timeline, ticker: Ticker, held: Mapping[str, bool]) -> None:
        """Show how things are."""
        if not self._live:
            return
        seconds = max(10, min(_SECONDS, self._console.width - 30))
        counts = by_second(timeline, seconds)
        rows: list[Text] = [Text(self._what, "bold")]
        for number, server in enumerate(sorted(ticker.servers)):
            rows.append(self._row(server, counts.get(server, [0] * seconds), ticker.servers[server],
                                  _COLOURS[number % len(_COLOURS)]))
        rows.append(self._row("lost", counts.get("", [0] * seconds), sum(ticker.lost.values()), "red"))
        if ticker.silent_since is not None:
            rows.append(Text(f"Nobody answers for {timeline.end - ticker.silent_since:.1f} s.", "bold red"))
        elif held:
            rows.append(Text(f"{' and '.join(node for node, has in held.items() if has) or 'Nobody'} has the address."))
        self._live.update(Group(*rows))

    def _row(self, name: str, counts: list[int], total: int, style: str) -> Text:
        most = max(1.0, self._rate)
        bars = "".join(self._bars[min(8, -int(-8 * count // most))] for count in counts)
        return Text.assemble(f"{visible(name)[:16]:<17}", (bars, style), f" {total}")

    def conclude(self, ticker: Ticker) -> None:
        """Print the totals."""
        for line in _totals(ticker):
            self._console.print(line, markup=False, soft_wrap=True)


class Events:
    """A JSON object for each thing that happens, and one for each second."""

    def __init__(self, console: Console) -> None:
        self._lines = display.JsonLines(console)
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def tell(self, at: float, text: str) -> None:
        """Something has happened."""
        self._lines.event("change", at=round(at, 3), text=text)

    def look(self, timeline: Timeline, ticker: Ticker, held: Mapping[str, bool]) -> None:
        """Once a second, say how things are."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 1
            counts = by_second(timeline, 1)
            self._lines.event("second", at=round(timeline.end, 3), lost=counts.pop("", [0])[0],
                              answered={server: count for server, (count,) in counts.items()},
                              silent=ticker.silent_since is not None, holders=[node for node in held if held[node]])

    def conclude(self, ticker: Ticker) -> None:
        """Print the totals."""
        self._lines.event("end", answered=dict(ticker.servers), lost=dict(ticker.lost),
                          longest=round(ticker.longest, 3))


def _totals(ticker: Ticker) -> list[str]:
    answered = ", ".join(f"{server or '?'} {count}" for server, count in sorted(ticker.servers.items()))
    lost = ", ".join(f"{count} {outcome}" for outcome, count in sorted(ticker.lost.items()))
    return [f"answered: {visible(answered) or 'none'}; lost: {lost or 'none'}",
            *([f"nobody answered for {ticker.longest:.3f} s at the longest"] if ticker.longest else [])]
