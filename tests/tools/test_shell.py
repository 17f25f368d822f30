"""Every shell script that labctl renders, read by the shells and by shellcheck."""

import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import rendered
import yaml

import labctl
from labctl.observe import doctor
from labctl.plan import guests
from labctl.plan.steps import apply_script, undo_script

SHELLCHECK = Path(sysconfig.get_path("scripts")) / "shellcheck"
PACKAGE = Path(labctl.__file__).parent
EXCLUDED = {
    # The first boot calls systemctl once before it puts a function in its place: that one call is to reload.
    "sh": ["SC2218"],
    "bash": [],
}


def all_scripts() -> Iterator[tuple[str, str, str]]:
    """Who runs it, the shell that does, and the script."""
    for lab, node in rendered.nodes():
        title = rendered.title(lab, node)
        # cloud-init puts '#!/bin/sh' before the commands, a line for each.
        yield title, "sh", "\n".join([*yaml.safe_load(rendered.seeds()[title]["user-data"])["runcmd"], ""])
        for step in node.steps:
            yield f"{title}/{step.name} apply", "sh", apply_script(step)
            yield f"{title}/{step.name} undo", "sh", undo_script(step)
            for file in step.write_files:
                if file.content.startswith("#!"):
                    yield f"{title}{file.path}", Path(file.content.splitlines()[0]).name, file.content
                for command in re.findall(r"^Exec\w+=/bin/sh -c '(.*)'$", file.content, re.MULTILINE):
                    yield f"{title}{file.path}", "sh", command.replace("$$", "$") + "\n"
    for guest in map(guests.load, guests.names()):
        for probe in doctor.questions(guest, doctor.plan_for(guest)):
            yield f"{guest.name} {probe.what}", "sh", probe.command + "\n"
    for script in PACKAGE.glob("*.sh"):
        yield script.name, "sh", script.read_text()


def distinct() -> dict[tuple[str, str], str]:
    """Shell and script, and the first who runs it: most scripts are the same on many nodes."""
    found: dict[tuple[str, str], str] = {}
    for title, shell, script in all_scripts():
        found.setdefault((shell, script), title)
    return found


def found_by_shell(shell: str, script: str) -> str:
    """What a shell says about a script without running it."""
    return subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False).stderr


def found_by_shellcheck(scripts: dict[str, str], shell: str, directory: Path) -> str:
    """What shellcheck says about scripts, which have names; all at once, since starting it costs most."""
    for name, script in scripts.items():
        (directory / name.replace("/", ":")).write_text(script)
    return subprocess.run(
        [SHELLCHECK, "--norc", "-f", "gcc", "-s", shell, "-e", ",".join(EXCLUDED[shell]),
         *(name.replace("/", ":") for name in scripts)],
        cwd=directory, capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="module")
def scripts() -> dict[tuple[str, str], str]:
    """Each script once."""
    found = distinct()
    assert {shell for shell, _ in found} == EXCLUDED.keys()
    return found


def test_the_shell_understands_each_script(scripts: dict[tuple[str, str], str]) -> None:
    # CentOS's sh is bash, Debian's is dash.
    said = {title: found_by_shell(each, script) for (shell, script), title in scripts.items()
            for each in {shell, "bash"}}
    assert {title: words for title, words in said.items() if words} == {}


@pytest.mark.parametrize("shell", EXCLUDED)
def test_shellcheck_finds_nothing(shell: str, scripts: dict[tuple[str, str], str], tmp_path: Path) -> None:
    mine = {title: script for (each, script), title in scripts.items() if each == shell}
    assert found_by_shellcheck(mine, shell, tmp_path) == ""


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_refuses_what_is_no_script(shell: str) -> None:
    assert found_by_shell(shell, "if true; then\n") != ""


def test_shellcheck_warns_of_what_is_risky(tmp_path: Path) -> None:
    assert "SC2115" in found_by_shellcheck({"lab/step undo": 'here=$1\nrm -rf "$here/"*\n'}, "sh", tmp_path)
