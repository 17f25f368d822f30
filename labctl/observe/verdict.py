"""Verdicts: results of checks, from which terminal output, JSON, JUnit and HTML are made."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NoReturn, Protocol, TypeAlias, get_args

from pydantic import AfterValidator

from labctl.base.types import Model
from labctl.plan.plan import Plan

Outcome: TypeAlias = Literal["passed", "failed", "unknown"]


class Check(Model):
    """A question about a lab."""

    id: str
    """SUBJECT/NAME, such as `web/spread`; NAME alone if the check is about the whole lab."""
    title: str
    """What has to hold, for people."""
    subject: str
    """The service, the node or both that the check is about; empty if it is about the whole lab."""


class Measured(Model):
    """A measured value and its upper bound."""

    value: float
    unit: str
    bound: float

    def __str__(self) -> str:
        if self.unit == "s":
            return f"{self.value:.1f} s, {self.bound:.1f} s allowed"
        return f"{self.value:.0f} {self.unit}, {self.bound:.0f} allowed"


def _readable(text: str) -> str:
    """A text, which may come from a guest, without control characters, to which a terminal would react."""
    return "".join(character if character.isprintable() or character == "\n" else "�" for character in text)


class Verdict(Check):
    """The result of a check."""

    outcome: Outcome
    """`unknown`: the check could not be made, which must not look like a fault of the cluster."""
    message: Annotated[str, AfterValidator(_readable)] = ""
    """What was seen and what was expected, or why the check could not be made; empty if it passed."""
    suspects: tuple[str, ...] = ()
    """The steps that look wrong, as NODE/STEP."""
    measured: Measured | None = None
    seconds: float


class CheckFailed(Exception):
    """A lab is not as it should be. `suspects` are the steps that look wrong, as NODE/STEP."""

    def __init__(self, message: str, suspects: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.suspects = tuple(suspects)


def fail(message: str) -> NoReturn:
    """Raise CheckFailed without suspects."""
    raise CheckFailed(message)


class Watcher(Protocol):
    """Is told how a run of checks gets on."""

    def say(self, text: str) -> None:
        """Tell the user something, in one line."""

    def begins(self, check: Check) -> None:
        """Note that a check begins."""

    def ends(self, verdict: Verdict) -> None:
        """Note a check's verdict."""


def advice(verdict: Verdict, plan: Plan) -> list[str]:
    """Two sentences for each suspected step: what it is for, and the command that does it again."""
    def sentence(suspect: str) -> str:
        node, _, name = suspect.partition("/")
        return (f"The step {suspect} looks wrong: {plan.node(node).step(name).title}. "
                f"'labctl apply {suspect}' does it again.")

    return [sentence(suspect) for suspect in verdict.suspects]


def text(verdict: Verdict, plan: Plan) -> str:
    """The message and the advice, one per line."""
    return "\n".join([verdict.message, *advice(verdict, plan)])


def count(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many verdicts have each outcome."""
    return {outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in get_args(Outcome)}


Measure: TypeAlias = Callable[[float, str, float], None]
"""Adds a value, its unit and its bound to the verdict of the current check."""
