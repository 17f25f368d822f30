"""The help of labctl: groups, examples, variables."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from commands import typed

from labctl.base.resources import ROOT
from labctl.cli import app
from labctl.cli.common import Panel


def _commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(_commands())


def _examples(command: Any) -> list[str]:
    return [line.removeprefix("[dim]$[/] ") for line in command.epilog.splitlines()[1:]]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_example_is_one_of_its_command_and_can_be_typed(path: tuple[str, ...]) -> None:
    examples = _examples(COMMANDS[path])
    assert examples
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])
        assert tuple(words[:len(path) + 1]) == ("labctl", *path)
        parent = typer.main.get_command(app).make_context("labctl", [], resilient_parsing=True)
        COMMANDS[path].make_context(path[-1], words[len(path) + 1:], parent=parent)
    assert re.sub(r"\s", "", examples[0]) in re.sub(r"\s", "", typed(*path, "--help").output)


def test_the_commands_are_in_groups() -> None:
    shown = typed("--help").output
    assert set(re.findall(r"─ ([^─]+?) ─", shown)) == {"Options", *Panel}


def test_the_variables_are_those_of_the_readme() -> None:
    variables = {parameter.envvar for _, command in _commands() for parameter in command.params if parameter.envvar}
    variables |= {parameter.envvar for parameter in typer.main.get_command(app).params if parameter.envvar}
    documented = (ROOT / "README.md").read_text().partition("| variable |")[2].partition("\n\n")[0]
    assert variables == set(re.findall(r"`(LABCTL_[A-Z_]+)`", documented))
    context = typer.main.get_command(app).make_context("labctl", ["list"])
    assert context.auto_envvar_prefix is None
    assert set(re.findall(r"LABCTL_\w+", typed("--help").output)) == {"LABCTL_VERBOSE", "LABCTL_OFFLINE"}
