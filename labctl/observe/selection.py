"""Selecting checks by an expression: words of their names and titles, with and, or, not and parentheses. Pure."""

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from labctl.base.errors import LabError
from labctl.observe.verdict import Check

_Matcher: TypeAlias = Callable[[str], bool]


def matching(checks: Sequence[Check], expression: str) -> list[Check]:
    """The checks that match an expression; all checks if it is empty.

    Successive words are one phrase, which has to be in the check's id or title; case does not matter.
    Raises LabError for a malformed expression.
    """
    if not expression.strip():
        return list(checks)
    tokens = re.findall(r"[()]|[^\s()]+", expression.lower())
    try:
        matches = _either(tokens)
        if tokens:
            raise _NonsenseError
    except _NonsenseError:
        raise LabError(f"'{expression}' cannot be read as words of names and titles with 'and', 'or' and 'not'.",
                       hint="'labctl test --list' shows names and titles.") from None
    return [check for check in checks if matches(f"{check.id}\n{check.title}".lower())]


class _NonsenseError(Exception):
    """Something is missing in an expression, or follows it."""


def _either(tokens: list[str]) -> _Matcher:
    options = [_all(tokens)]
    while tokens[:1] == ["or"]:
        del tokens[0]
        options.append(_all(tokens))
    return lambda text: any(option(text) for option in options)


def _all(tokens: list[str]) -> _Matcher:
    parts = [_one(tokens)]
    while tokens[:1] == ["and"]:
        del tokens[0]
        parts.append(_one(tokens))
    return lambda text: all(part(text) for part in parts)


def _one(tokens: list[str]) -> _Matcher:
    if tokens[:1] == ["not"]:
        del tokens[0]
        part = _one(tokens)
        return lambda text: not part(text)
    if tokens[:1] == ["("]:
        del tokens[0]
        inside = _either(tokens)
        if tokens[:1] != [")"]:
            raise _NonsenseError
        del tokens[0]
        return inside
    words = []
    while tokens and tokens[0] not in ("and", "or", "not", "(", ")"):
        words.append(tokens.pop(0))
    if not words:
        raise _NonsenseError
    phrase = " ".join(words)
    return lambda text: phrase in text
