"""labctl.base.suggest: the nearest known word."""

import pytest

from labctl.base.suggest import did_you_mean


@pytest.mark.parametrize(("word", "known", "expected"), [
    ("scheduller", ["scheduler", "port"], "Did you mean 'scheduler'?"),
    ("rs22", ["rs2", "rs1", "client"], "Did you mean 'rs2' or 'rs1'?"),
    ("xyz", ["b", "a"], "Known: a, b."),
    ("", ["b", "a"], "Known: a, b."),
    ("xyz", [], "There are none."),
])
def test_sentence(word: str, known: list[str], expected: str) -> None:
    assert did_you_mean(word, known) == expected
