"""The way of a request in lines of at most 80 columns. Pure."""

from collections.abc import Iterator
from textwrap import wrap

from labctl.observe.hops import Hop, Trace

_WIDTH = 80
_INDENT = " " * 10


def lines(trace: Trace) -> Iterator[str]:
    """The hops there and back, each with what its sender did, and what went wrong."""
    came = (f"HTTP status {trace.status}" + (f" after {trace.milliseconds:.0f} ms" if trace.milliseconds else "")
            if trace.status else "no answer")
    yield f"GET {trace.url} from '{trace.client}': {came}"
    several = len({hop.connection for hop in trace.hops}) > 1
    networks = len({hop.network for hop in trace.hops}) > 1
    before: Hop | None = None
    for hop in trace.hops:
        if before is None or (hop.direction, hop.connection) != (before.direction, before.connection):
            yield ""
            yield f"{hop.direction}{f', connection {hop.connection}' if several else ''}: {hop.carries}"
        yield from _hop(hop, networks=networks)
        before = hop
    for remark in trace.remarks:
        yield ""
        yield from wrap(remark, _WIDTH)
    if trace.trouble:
        yield ""
        yield from _trouble(trace)


def _hop(hop: Hop, *, networks: bool) -> Iterator[str]:
    if hop.note:
        text = f"{hop.sender} {hop.note.text}"
        if hop.note.rewritten:
            text += ": " + ", ".join(hop.note.rewritten)
        yield from _indented(text + (f"  ({hop.note.step})" if hop.note.step else ""))
    on = f" on {hop.network}" if networks else ""
    ways = f"{hop.sender} > {hop.receiver or 'nowhere'}{on}"
    yield f"{hop.milliseconds:6.1f} ms {ways:<26} {hop.source} > {hop.target}"
    if hop.tunnel:
        yield from _indented(f"  in a packet {hop.tunnel[0]} > {hop.tunnel[1]}")


def _trouble(trace: Trace) -> Iterator[str]:
    trouble = trace.trouble
    assert trouble
    yield from wrap(trouble.message, _WIDTH)
    for reason in trouble.reasons:
        mend = f" ('labctl apply {trace.lab}/{reason.step}')" if reason.step else ""
        yield from wrap(f"{reason.text}{mend}", _WIDTH, initial_indent="  - ", subsequent_indent="    ",
                        break_on_hyphens=False)


def _indented(text: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT + "  ", break_on_hyphens=False,
                break_long_words=False)
