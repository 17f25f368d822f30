"""Commands that show what is on a lab's wires."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from enum import StrEnum
from math import inf
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from labctl.base import process, signals
from labctl.base.errors import LabError
from labctl.base.machine import install
from labctl.base.text import counted
from labctl.base.wait import Deadline
from labctl.cli.common import Panel, command, err, lab_names, must_be_open, out, point_names
from labctl.labs import targets

if TYPE_CHECKING:
    from labctl.labs.lab import Lab
    from labctl.observe.capture import Capture, Captured

_STDOUT = "-"


class TraceForm(StrEnum):
    """How the way of a request is printed."""

    text = "text"
    json = "json"


@command(Panel.packets, "labctl capture", "labctl capture lvs rs1 --vip", "labctl capture lan --arp --for 10",
         "labctl capture client:lan --filter 'tcp port 80' -w web.pcapng", "labctl capture lan --vrrp --wireshark")
def capture(
    points: Annotated[list[str] | None, typer.Argument(
        metavar="NODE[:NET]|NET...", help="Interfaces of nodes, and networks; LAB/ may go before each. All networks, "
        "if none is given.", autocompletion=point_names, show_default=False)] = None,
    expression: Annotated[str, typer.Option(
        "--filter", "-f", metavar="EXPR", help="Only what this filter of pcap's lets through.",
        show_default=False)] = "",
    arp: Annotated[bool, typer.Option("--arp", help="Only ARP; such options add up.")] = False,
    vrrp: Annotated[bool, typer.Option("--vrrp", help="Only advertisements of VRRP.")] = False,
    vip: Annotated[bool, typer.Option("--vip", help="Only what is to or from a VIP, also in a tunnel.")] = False,
    heartbeat: Annotated[bool, typer.Option("--heartbeat", help="Only messages of heartbeat.")] = False,
    file: Annotated[Path | None, typer.Option(
        "--write", "-w", metavar="FILE", help="Write a pcapng file, for Wireshark and others; '-' is the output.",
        show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there already.")] = False,
    wireshark: Annotated[bool, typer.Option("--wireshark", help="Show them in Wireshark as they come.")] = False,
    count: Annotated[int | None, typer.Option(
        "--count", "-c", metavar="N", min=1, help="End after so many packets.", show_default=False)] = None,
    seconds: Annotated[float | None, typer.Option(
        "--for", metavar="SECONDS", min=0, help="End after so many seconds; otherwise Ctrl-C does.",
        show_default=False)] = None,
) -> None:
    """Show the packets at interfaces of nodes and on networks, or write them to a file; nothing runs on the nodes."""
    from labctl.observe import capture as capturing  # noqa: PLC0415 (dpkt takes longer to load than most commands)

    found, words = targets.lab_of_points(points or [])
    must_be_open(found)
    if file and wireshark:
        raise LabError("Packets are either written to a file or shown in Wireshark.",
                       hint="Wireshark shows the file as well, and saves what it shows.")
    wanted = {"arp": arp, "vrrp": vrrp, "vip": vip, "heartbeat": heartbeat}
    chosen = capturing.either([capturing.ready_made(name, found.plan) for name, on in wanted.items() if on])
    full = " and ".join(f"({part})" for part in (chosen, expression) if part)
    places = capturing.points(found, words, full)
    if expression:
        capturing.must_be_filter(expression)
    names = [place.name for place in places]
    with ExitStack() as stack:
        take = stack.enter_context(_sink(found, file, names, overwrite=overwrite, wireshark=wireshark))
        running = stack.enter_context(capturing.capturing(places))
        interrupted = stack.enter_context(signals.awaited())
        end = f"for {seconds:g} s" if seconds is not None else "until Ctrl-C"
        _say(f"Capturing at {', '.join(names)} {end}.")
        taken = _take(running, take, interrupted, count or inf, Deadline(inf if seconds is None else seconds))
    _say(f"{counted(taken, 'packet')}{f' in {str(file)!r}' if file and str(file) != _STDOUT else ''}."
         + (f" {running.dropped} more came too fast." if running.dropped else ""))


@command(Panel.packets, "labctl trace", "labctl trace http://10.10.10.100/", "labctl trace lvs-dr --svg way.svg",
         "labctl trace multi-tier http://www.demo2.com/ -o json")
def trace(
    words: Annotated[list[str] | None, typer.Argument(
        metavar="[LAB] [URL]", help="A lab, if it is not the only one, and what to ask for: an address, a node or a "
        "virtual host. The first service, if no URL is given.", autocompletion=lab_names, show_default=False)] = None,
    output: Annotated[TraceForm, typer.Option("--output", "-o", help="How to print it.")] = TraceForm.text,
    svg: Annotated[Path | None, typer.Option(
        "--svg", metavar="FILE", help="Draw a sequence diagram.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there already.")] = False,
) -> None:
    """Send one request from the client, and show its way to whoever answers, and back: what each node does to it."""
    from labctl.cli import way  # noqa: PLC0415 (these three load dpkt, which takes longer than most commands)
    from labctl.observe import follow, sequence  # noqa: PLC0415

    name, url = _lab_and_url(words or [])
    found = targets.one_lab(name)
    must_be_open(found)
    if svg:
        _must_be_free(svg, overwrite=overwrite)
    with err.status("Following a request"):
        traced = follow.trace(found, url)
    if svg:
        svg.write_text(sequence.svg(traced), encoding="utf-8")
    if output is TraceForm.json:
        typer.echo(traced.model_dump_json(indent=2))
    else:
        for text in way.lines(traced):
            out.print(text, soft_wrap=True, markup=False)
    raise typer.Exit(1 if traced.trouble else 0)


def _lab_and_url(words: list[str]) -> tuple[str | None, str | None]:
    """What is typed: a lab, a URL, or both. What looks like neither is a lab's name that does not exist."""
    if len(words) > 2:
        raise LabError(f"'{words[2]}' is too much: a request is to one URL.", hint="'labctl trace LAB URL' is all.")
    if len(words) == 2:
        return words[0], words[1]
    if words and any(sign in words[0] for sign in ":/."):
        return None, words[0]
    return (words[0] if words else None), None


def _take(running: "Capture", take: "Callable[[Captured], None]", interrupted: Callable[[], bool], count: float,
          deadline: Deadline) -> int:
    """Hand on frames until something ends it; returns how many there were."""
    taken = 0
    told: set[str] = set()

    def one(captured: "Captured") -> bool:
        nonlocal taken
        if taken < count:
            take(captured)
            taken += 1
        return taken < count

    try:
        for captured in running.frames(deadline):
            if interrupted():
                break
            for name in running.ended.keys() - told:
                told.add(name)
                _say(f"At '{name}' nothing is captured any more: the interface is gone.")
            if captured and not one(captured):
                break
        for captured in running.stop():
            one(captured)
    except BrokenPipeError:
        running.stop()  # Wireshark was closed, or nobody reads the output any more.
    return taken


@contextmanager
def _sink(found: "Lab", file: Path | None, names: list[str], *, overwrite: bool,
          wireshark: bool) -> "Iterator[Callable[[Captured], None]]":
    from labctl.observe import capture as capturing  # noqa: PLC0415

    if wireshark:
        if not shutil.which("wireshark"):
            raise LabError("Wireshark is not installed.",
                           hint=f"'{install('wireshark', 'wireshark')}' installs it; '-w FILE' needs none.")
        shown = process.feed(["wireshark", "-k", "-i", "-"])
        assert shown.stdin
        with shown.stdin as pipe:
            yield _flushed(pipe, capturing.pcapng(pipe, names))
    elif file is None:
        yield _lines(found, names)
    elif str(file) == _STDOUT:
        if sys.stdout.isatty():
            raise LabError("Packets in pcapng's format are nothing for a terminal.",
                           hint="'labctl capture -w - | tshark -r -' has them read by a program.")
        yield _flushed(sys.stdout.buffer, capturing.pcapng(sys.stdout.buffer, names))
    else:
        _must_be_free(file, overwrite=overwrite)
        with file.open("wb") as opened:
            yield capturing.pcapng(opened, names)


def _must_be_free(file: Path, *, overwrite: bool) -> None:
    if file.is_file() and not overwrite:
        raise LabError(f"'{file}' is there already.", hint="'--overwrite' replaces it.")


def _flushed(pipe: IO[bytes], write: "Callable[[Captured], None]") -> "Callable[[Captured], None]":
    def take(captured: "Captured") -> None:
        write(captured)
        pipe.flush()

    pipe.flush()  # Who reads it can begin.
    return take


def _lines(found: "Lab", names: list[str]) -> "Callable[[Captured], None]":
    from labctl.observe import packet  # noqa: PLC0415
    from labctl.observe.wire import mac_to_node  # noqa: PLC0415
    from labctl.plan.domain import tap_mac  # noqa: PLC0415

    nodes = mac_to_node(found.plan.nodes)
    # What a tap, or its bridge, sends itself is the physical machine's.
    nodes |= {tap_mac(mac): "host" for mac in nodes}
    width = max(map(len, names))

    def take(captured: "Captured") -> None:
        clock = datetime.fromtimestamp(captured.time).strftime("%H:%M:%S.%f")
        text = packet.line(captured.packet, nodes)
        out.print(f"{clock} {captured.point:<{width}}  {text}", markup=False, soft_wrap=True)

    return take


def _say(text: str) -> None:
    err.print(text, markup=False, soft_wrap=True)
