"""labctl.base.yamlfile: hand-written YAML, with its lines, and nothing exotic."""

from pathlib import Path

import pytest

from labctl.base.errors import InputError
from labctl.base.yamlfile import MAX_BYTES, MAX_DEPTH, Document, read, read_file


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: &x 1\n", 2, "anchors and aliases"),
        ("a: &x\n  b: 1\n", 1, "anchors and aliases"),
        ("a: 1\nb: 2\nc: *x\n", 3, "anchors and aliases"),
        ("a: 1\nb: !!str 2\n", 2, "the tag 'tag:yaml.org,2002:str' is not allowed"),
        (
            "a: !!python/object/apply:os.system [id]\n",
            1,
            "the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        ("a: !vault x\n", 1, "the tag '!vault'"),
        ("a: 1\n---\nb: 1\n", 2, "only one YAML document"),
        ("a: 1\nb: 2\na: 3\n", 3, "'a' is given twice"),
        ("a:\n  b: 1\n  'b': 2\n", 3, "'b' is given twice"),
        ("? [a, b]\n: 1\n", 1, "a key has to be a plain word"),
        ("a: 1\n? {b: 1}\n: 1\n", 2, "a key has to be a plain word"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not YAML"),
        ("a:\n\t- b\n", 2, "not YAML"),
        ("a: 'b\n", 2, "not YAML"),
        ("a: =\n", 1, "not YAML"),
        ("a: 1\nb: 2020-13-45\n", 2, "'2020-13-45' is not a value"),
        ("a: 1\nb: 0b_\n", 2, "'0b_' is not a value"),
        ("a: " + "9" * 5000, 1, "is not a value"),
        (
            "\n" + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
            2,
            f"nested more than {MAX_DEPTH} levels deep",
        ),
        ("[" * 100_000, 1, "nest"),  # The parser may have a limit of its own, with its own words.
        ("\n".join(" " * depth + "a:" for depth in range(30)), MAX_DEPTH + 1, "nested more than"),
        ("a: " + "x" * MAX_BYTES, 1, "larger than 256 KiB"),
        ("a: " + "ä" * (MAX_BYTES // 2), 1, "larger than 256 KiB"),
        ("a: \x01\n", 1, "control characters are not allowed"),
        ("a: \x00\n", 1, "control characters are not allowed"),
        ("a: \x7f\n", 1, "control characters are not allowed"),
        ("a: \ud800\n", 1, "not YAML"),
    ],
)
def test_what_no_labctl_file_needs_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text, "f.yaml")
    problem, = caught.value.problems
    assert message in problem.message
    assert problem.line == line
    assert "f.yaml" in caught.value.message


@pytest.mark.parametrize("text", [
    "a: 1" + ":1" * 50_000,
    "a: 0x" + "f" * 5000,
    "a: 0b" + "1" * 50_000,
    "a: 0" + "7" * 20_000,
], ids=["base 60", "hexadecimal", "binary", "octal"])
def test_a_number_too_long_for_decimal_is_no_value(text: str) -> None:
    """Python cannot even print such a number, and a base-60 one takes seconds to add up."""
    with pytest.raises(InputError, match="is not a value"):
        read(text, "f.yaml")


@pytest.mark.parametrize(
    "key", ["no", "on", "y", "null", "~", "1.5", "007", "2020-01-01", "12:30", "<<", "="]
)
def test_keys_stay_the_text_they_are(key: str) -> None:
    assert read(f"{key}: {{ {key}: 1 }}\n", "f").data == {key: {key: 1}}


@pytest.mark.parametrize(("text", "data"), [
    ("", None),
    ("# nothing\n", None),
    ("--- \n", None),
    ("a: [1, 1.5, yes, ~, 'no', no]", {"a": [1, 1.5, True, None, "no", False]}),
    ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
    ("\ufeffa: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
    ("[" * MAX_DEPTH + "]" * MAX_DEPTH, eval("[" * MAX_DEPTH + "]" * MAX_DEPTH)),
], ids=repr)
def test_plain_data_is_read(text: str, data: object) -> None:
    assert read(text, "f").data == data


def test_every_part_has_its_line() -> None:
    document = read("a: 1\nb:\n  c: 2\n  d:\n    - 3\n    - e: 4\n      f: 5\n", "f")
    expected = {(): 1, ("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "d"): 4, ("b", "d", 0): 5, ("b", "d", 1): 6,
                ("b", "d", 1, "e"): 6, ("b", "d", 1, "f"): 7}
    assert document.lines == expected


def test_what_is_not_in_the_file_has_the_line_of_what_it_would_be_in() -> None:
    document = read("a: 1\nb:\n  c: 2\n", "f")
    assert document.line_of(("b", "missing", 3)) == 2
    assert document.line_of(("missing",)) == 1
    assert Document(None).line_of(("a",)) == 1


def test_a_file_that_is_not_utf_8_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "latin-1.yaml"
    path.write_bytes("title: Übung\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin-1\.yaml:1: not YAML"):
        read_file(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("title: Übung 一\n", encoding="utf-8")
    assert read_file(path).data == {"title": "Übung 一"}


def test_a_replaced_part_has_the_line_of_the_old_one_or_of_what_it_is_in() -> None:
    document = read("a: 1\nb:\n  c: [2, 3]\n", "f")
    document.replace(("b", "c"), read("d:\n\n  e: 4", "value"))
    document.replace(("b", "new"), read("", "value"))
    assert document.data == {"a": 1, "b": {"c": {"d": {"e": 4}}, "new": None}}
    assert document.lines == {(): 1, ("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "c", "d"): 3, ("b", "c", "d", "e"): 3,
                              ("b", "new"): 2}
