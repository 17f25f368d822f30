"""What was found out about a lab: the one form of it that the terminal, JSON, JUnit and HTML are made of."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NoReturn, Protocol, TypeAlias, get_args

from pydantic import AfterValidator

from labctl.base.types import Model
from labctl.plan.plan import Plan

Outcome: TypeAlias = Literal["passed", "failed", "unknown"]


class Check(Model):
    """A question about a lab."""

    id: str
    """SUBJECT/NAME, such as `web/spread`; NAME alone where it is about the whole lab."""
    title: str
    """What has to hold, for people."""
    subject: str
    """The service, the node or both that it is about; empty where it is about the whole lab."""


class Measured(Model):
    """A figure and the most that it may be."""

    value: float
    unit: str
    bound: float

    def __str__(self) -> str:
        return f"{self.value:.1f} {self.unit} without service, {self.bound:.1f} {self.unit} allowed"


def _readable(text: str) -> str:
    """A text without control characters, which may come from a guest and mean something to a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "�" for character in text)


class Verdict(Check):
    """What a check came to."""

    outcome: Outcome
    """`unknown` is a check that could not be made; it must not look like a fault of the cluster."""
    message: Annotated[str, AfterValidator(_readable)] = ""
    """What was seen, and what should have been; or why nothing could be seen."""
    suspects: tuple[str, ...] = ()
    """The steps that look wrong, as NODE/STEP"""
    measured: Measured | None = None
    seconds: float


class CheckFailed(Exception):
    """A lab is not as it should be; with the steps to suspect, as NODE/STEP."""

    def __init__(self, message: str, suspects: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.suspects = tuple(suspects)


def fail(message: str) -> NoReturn:
    """Raise CheckFailed where no step can be suspected."""
    raise CheckFailed(message)


class Watcher(Protocol):
    """Is told what a run of checks finds out, as it does."""

    def say(self, text: str) -> None:
        """Something the user should know, in one line."""

    def begins(self, check: Check) -> None:
        """A check is being made."""

    def ends(self, verdict: Verdict) -> None:
        """A check was made."""


def advice(verdict: Verdict, plan: Plan) -> list[str]:
    """A sentence for each suspected step: what it is for, and how it is done again."""
    def sentence(suspect: str) -> str:
        node, _, name = suspect.partition("/")
        return (f"The step {suspect} looks wrong: {plan.node(node).step(name).title}. "
                f"'labctl apply {suspect}' does it again.")

    return [sentence(suspect) for suspect in verdict.suspects]


def text(verdict: Verdict, plan: Plan) -> str:
    """The message and the advice, a line for each."""
    return "\n".join([verdict.message, *advice(verdict, plan)])


def count(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many verdicts have each outcome."""
    return {outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in get_args(Outcome)}


Measure: TypeAlias = Callable[[float, str, float], None]
"""Notes a value, its unit and its bound in the verdict of the check that is being made."""
