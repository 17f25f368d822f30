"""The nearest known word, for messages about unknown ones. Pure."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence with the nearest known words, or with all of them where none is near."""
    options = sorted(known)
    near = get_close_matches(word, options, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(repr(option) for option in near)}?"
    if not options:
        return "There are none."
    return f"Known: {', '.join(options)}."
