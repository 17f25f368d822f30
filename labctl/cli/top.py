"""`labctl top`: a lab as it is now, and keys that break it and put it back."""

import os
import re
import select
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from typing_extensions import override

from labctl.base.errors import LabError
from labctl.base.progress import Gate, Progress
from labctl.base.wait import CalledOff, obey
from labctl.cli import display
from labctl.cli.common import LabArgument, Output, Panel, command, err, must_be_open, out, print_data
from labctl.cli.drills import RateOption
from labctl.cli.faults import LOCK_SECONDS, heal_each
from labctl.labs import lab, targets
from labctl.labs.journal import Journal, Wanted
from labctl.labs.lab import Lab, locked
from labctl.observe.faults import wanted
from labctl.plan.plan import Plan

if TYPE_CHECKING:
    from labctl.cli.panes import Signs
    from labctl.observe.faults.faults import Faults
    from labctl.observe.lookout import Lookout

_LOOK_SECONDS, _KEY_SECONDS = 1, 0.2
_NEARLY_SECONDS = 3
"""For a fault that is being made, or heals, when somebody leaves."""
_KEY = re.compile(r"\x1b(?:\[|O)[0-9;]*[A-Za-z~]|.", re.DOTALL)
_UP, _DOWN = ("\x1b[A", "\x1bOA"), ("\x1b[B", "\x1bOB")
_LEAVE = ("q", "\x03", "\x04")
"""Also Ctrl-C and Ctrl-D"""


def _stop(plan: Plan, node: str) -> Wanted:
    """The first service of a node's is stopped."""
    for step in plan.node(node).steps:
        if step.service and step.units:
            return wanted.stop(plan, node, step.name)
    raise LabError(f"'{node}' runs no service that could be stopped.")


FAULTS: dict[str, Callable[[Plan, str], Wanted]] = {
    "c": wanted.crash, "f": wanted.freeze, "u": wanted.unplug, "s": _stop}


@command(Panel.faults, "labctl top", "labctl top lvs-dr-keepalived --once -o json")
def top(
    name: LabArgument = None,
    rate: RateOption = 20,
    once: Annotated[bool, typer.Option("--once", help="Print it once, after some seconds, and end.")] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="With --once: how to print it.")] = Output.table,
) -> None:
    """Show a lab live: nodes, addresses, the balancer, answers, faults; keys break things and put them back."""
    from labctl.cli import panes  # noqa: PLC0415 (these load what other commands do not need)
    from labctl.observe.lookout import Lookout  # noqa: PLC0415

    if output is not Output.table and not once:
        raise LabError(f"'-o {output.value}' goes with '--once'.", hint=f"'labctl top --once -o {output.value}' prints "
                                                                       "what is to be seen, and ends.")
    if not once and (not sys.stdin.isatty() or not sys.stdout.isatty() or out.is_dumb_terminal):
        raise LabError("'labctl top' needs a terminal to draw on and to read keys from.",
                       hint="'labctl top --once' prints what is to be seen, and ends; '-o json' does for programs.")
    found = targets.one_lab(name)
    must_be_open(found)
    frontends = found.plan.frontends()
    if not frontends:
        raise LabError(f"The lab '{found.name}' has no address that clients use, so there is nothing to watch.",
                       hint=f"'labctl status {found.name}' shows its nodes.")
    lookout = Lookout(found, frontends[0], rate)
    signs = panes.Signs() if display.can_show(out, panes.Signs().all) else panes.PLAIN
    if not once:
        _live(found, lookout, signs)
        return
    with lookout.looking():
        lookout.see_enough()
        snapshot = lookout.snapshot({})
    if output is Output.table:
        out.print(panes.view(snapshot, max(out.width, panes.LEAST_WIDTH), None, signs=signs))
    else:
        print_data(snapshot.model_dump(mode="json"), output)


def _live(found: Lab, lookout: "Lookout", signs: "Signs") -> None:
    work = Work()
    try:
        with suppress(KeyboardInterrupt), lookout.looking(), _pressed(sys.stdin.fileno()) as pressed, \
                Live(console=out, screen=True, auto_refresh=False) as live:
            _watch(found, lookout, signs, work, pressed, live)
    finally:
        work.end()
        _say_what_stays(found)


def _watch(found: Lab, lookout: "Lookout", signs: "Signs", work: "Work", pressed: Callable[[float], list[str]],
           live: Live) -> None:
    """Show how things are, and do what keys say, until one says that it is enough."""
    from labctl.cli.panes import Hand, view  # noqa: PLC0415 (loads what other commands do not need)

    names = [node.name for node in found.plan.nodes]
    chosen, due, shown = 0, 0.0, None
    snapshot = lookout.snapshot(work.gates)
    while True:
        if time.monotonic() >= due:
            due = time.monotonic() + _LOOK_SECONDS
            snapshot = lookout.snapshot(work.gates)
        work.check()
        hand = Hand(names[chosen], work.status or lookout.trouble, work.wrong or not work.status)
        now = (snapshot, hand, out.size)
        if now != shown:
            shown = now
            live.update(view(snapshot, out.width, out.height, hand, signs=signs), refresh=True)
        for key in pressed(_KEY_SECONDS):
            if key in _LEAVE:
                return
            chosen = choose(key, chosen, len(names))
            act(key, found, names[chosen], work)


def choose(key: str, chosen: int, count: int) -> int:
    """Which of the nodes is chosen after a key."""
    if key in _UP:
        return max(0, chosen - 1)
    if key in _DOWN:
        return min(count - 1, chosen + 1)
    return int(key) - 1 if key in "123456789" and int(key) <= count else chosen


def act(key: str, found: Lab, node: str, work: "Work") -> None:
    """Begin what a key stands for, if it does for something."""
    if key in FAULTS:
        work.begin(f"{FAULTS[key].__name__.strip('_')} {node}", lambda: _make(found, FAULTS[key](found.plan, node)))
    elif key == "h":
        work.begin(f"heal {node}", lambda: _heal(found, node, work))
    elif key == "H":
        work.begin("heal all", lambda: _heal(found, None, work))


@contextmanager
def _faults(found: Lab) -> Iterator["Faults"]:
    from labctl.observe.faults.faults import Faults  # noqa: PLC0415 (loads what other commands do not need)

    with locked(found.name, LOCK_SECONDS):
        yield Faults(found)


def _make(found: Lab, what: Wanted) -> str:
    with _faults(found) as faults:
        fault = faults.make(what)
    return f"{fault.id}: '{fault.what}' is in force; 'h' heals it."


def _heal(found: Lab, node: str | None, progress: Progress) -> str:
    with _faults(found) as faults:
        chosen = [fault for fault in faults.in_force() if node is None or node in fault.nodes]
        if not chosen:
            where = f"at '{node}'" if node else "in this lab"
            raise LabError(f"Nothing is broken on purpose {where}.")
        heal_each(faults, chosen, progress)
    return ""


class Work(Progress):
    """Something that is done in a thread, one thing at a time, and what is to be said of it."""

    def __init__(self) -> None:
        self.status = ""
        self.wrong = False
        """Whether the status is an error"""
        self.gates: dict[str, Gate] = {}
        """Those that nodes which boot again have passed"""
        self._name = ""
        self._bug: BaseException | None = None
        self._called_off = Event()
        self._thread: Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether something is being done."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, name: str, do: Callable[[], str]) -> None:
        """Do something, which returns what is to be said at its end; nothing if that is said already."""
        if self.busy:
            self._tell(f"Not now: '{self._name}' is not done yet.", wrong=True)
            return
        self._name = name
        self._tell(f"{name} …")
        self._thread = Thread(target=self._do, args=(do,), daemon=True)
        self._thread.start()

    def _do(self, do: Callable[[], str]) -> None:
        obey(self._called_off)
        try:
            said = do()
            if said:
                self._tell(said)
        except CalledOff:
            return
        except LabError as error:
            self._tell(f"{error.message.splitlines()[0]} {error.hint}".strip(), wrong=True)
        except BaseException as error:
            self._bug = error
        finally:
            self.gates = {}

    def _tell(self, text: str, *, wrong: bool = False) -> None:
        self.status, self.wrong = text, wrong

    @override
    def say(self, text: str) -> None:
        self._tell(text)

    @override
    def passed(self, node: str, gate: Gate) -> None:
        self.gates = {**self.gates, node: gate}

    def check(self) -> None:
        """Raise what should not have happened, if it has."""
        if self._bug:
            raise self._bug

    def end(self) -> None:
        """Wait a little for what is being done, and call it off."""
        if self._thread:
            self._thread.join(_NEARLY_SECONDS)
            self._called_off.set()
            self._thread.join()


@contextmanager
def _pressed(terminal: int) -> Iterator[Callable[[float], list[str]]]:
    """Gives a function that waits so many seconds for keys and returns those that were pressed.

    They come one by one and are not shown. Ctrl-C is a key as well, and reaches no program that labctl has started.
    """
    before = termios.tcgetattr(terminal)
    try:
        raw = termios.tcgetattr(terminal)
        raw[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(terminal, termios.TCSADRAIN, raw)
        yield lambda seconds: keys(terminal, seconds)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def keys(terminal: int, seconds: float) -> list[str]:
    """The keys that were pressed by then; that for the end, if the terminal is gone."""
    ready, _, _ = select.select([terminal], [], [], seconds)
    if not ready:
        return []
    try:
        said = os.read(terminal, 256)
    except OSError:
        said = b""
    return _KEY.findall(said.decode(errors="replace")) or [_LEAVE[-1]]


def _say_what_stays(found: Lab) -> None:
    """Say which faults stay in force."""
    in_force = Journal(found.directory).faults()
    if in_force:
        which = f" --lab {found.name}" if len(lab.names()) > 1 else ""
        err.print(f"In force still: {', '.join(fault.what for fault in in_force)}. 'labctl heal --all{which}' puts "
                  "that back.", markup=False, soft_wrap=True)
