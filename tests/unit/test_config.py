"""labctl.base.config: the user's settings."""

from contextlib import nullcontext

import pytest

from labctl.base import config, paths
from labctl.base.errors import InputError, LabError


def write(text: str) -> None:
    path = paths.config_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_no_file_means_no_settings() -> None:
    assert config.load() == config.Config()


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n"])
def test_an_empty_file_means_no_settings(text: str) -> None:
    write(text)
    assert config.load() == config.Config()


def test_settings_are_read() -> None:
    write("guest: debian-12\nmirror: http://mirror.example/debian\n")
    assert config.load() == config.Config(guest="debian-12", mirror="http://mirror.example/debian")


@pytest.mark.parametrize(("file", "variable", "refused"), [
    ("", None, False), ("offline: true\n", None, True), ("offline: false\n", None, False),
    ("", "1", True), ("", "0", False), ("offline: true\n", "0", False),
])
def test_offline_is_what_the_command_line_says_else_the_file(
    monkeypatch: pytest.MonkeyPatch, file: str, variable: str | None, refused: bool,
) -> None:
    write(file)
    if variable:
        monkeypatch.setenv(config.OFFLINE, variable)
    with pytest.raises(LabError, match="is offline, so it does not ask") if refused else nullcontext():
        config.must_be_online("ask")


@pytest.mark.parametrize(("text", "line", "message"), [
    ("guest: debian-12\ngest: x\n", 2, "unknown setting 'gest'"),
    ("mirror: [a]\n", 1, "mirror: "),
    ("\nguest: a b\n", 2, "guest: "),
    ("- guest\n", 1, ""),
    ("false\n", 1, ""),
    ("guest: &x y\n", 1, "anchors"),
])
def test_mistakes_are_told_with_their_line(text: str, line: int, message: str) -> None:
    write(text)
    with pytest.raises(InputError) as caught:
        config.load()
    problem, = caught.value.problems
    assert problem.line == line
    assert problem.message.startswith(message)
    assert not problem.message.startswith(":")


def test_all_mistakes_are_told_with_the_known_settings() -> None:
    write("gest: x\nmirror: [a]\n")
    with pytest.raises(InputError) as caught:
        config.load()
    assert [problem.line for problem in caught.value.problems] == [1, 2]
    assert "Did you mean 'guest'?" in caught.value.message


def test_a_file_that_cannot_be_read_is_told() -> None:
    paths.config_file().mkdir(parents=True)
    with pytest.raises(LabError, match="cannot be read"):
        config.load()
