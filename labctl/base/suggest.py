"""Suggestions for messages about unknown words. Pure."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the known words nearest to `word`, or all of them if none is near."""
    options = sorted(known)
    near = get_close_matches(word, options, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(repr(option) for option in near)}?"
    if not options:
        return "There are none."
    return f"Known: {', '.join(options)}."
