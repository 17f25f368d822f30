"""systemd's units, read by systemd: those that steps write, and heartbeat's, which the recipe of CentOS 7 writes."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import rendered

from labctl.base.resources import IMAGES

UNITS = "/etc/systemd/system"
_EXECUTED = re.compile(r"^Exec\w+=[-@:+!]*(/\S+)", re.MULTILINE)


def heartbeat() -> str:
    """The unit that the recipe makes, with the directory that RPM puts into it."""
    recipe = (IMAGES / "centos-7.sh").read_text()
    (unit,) = re.findall(r"heartbeat\.service <<'UNIT'\n(.*?)^UNIT$", recipe, re.MULTILINE | re.DOTALL)
    return str(unit).replace("%{_libexecdir}", "/usr/libexec")


def distinct() -> dict[str, dict[str, str]]:
    """The units of a node, their texts by path, by the first node that has just these."""
    found: dict[tuple[tuple[str, str], ...], str] = {}
    for lab, node in rendered.nodes():
        files = {file.path: file.content for step in node.steps for file in step.write_files
                 if file.path.startswith(f"{UNITS}/")}
        if any(path.startswith(f"{UNITS}/heartbeat.service.d/") for path in files):
            files[f"{UNITS}/heartbeat.service"] = heartbeat()
        found.setdefault(tuple(files.items()), rendered.title(lab, node))
    return {title: dict(files) for files, title in found.items() if files}


def found_by_systemd(files: Mapping[str, str], root: Path) -> str:
    """What systemd-analyze says about units that have all their programs, in a system of their own."""
    for path, content in files.items():
        for place, text, mode in [(path, content, 0o644), *((each, "#!/bin/sh\n", 0o755)
                                                           for each in _EXECUTED.findall(content))]:
            file = root / place.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(mode)
    packaged = root / "usr/lib/systemd"
    packaged.mkdir(parents=True, exist_ok=True)
    (packaged / "system").symlink_to(rendered.unpacked("lib/systemd/system"))
    units = [path.rpartition("/")[2] for path in files if not path.endswith(".conf")]
    done = subprocess.run([rendered.unpacked("usr/bin/systemd-analyze"), "verify", "--man=no", "--recursive-errors=one",
                           f"--root={root}", *units],
                          env=rendered.environment(), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr + (f"exit code {done.returncode}" if done.returncode else "")


def test_systemd_understands_each_unit(tmp_path: Path) -> None:
    said = {title: found_by_systemd(files, tmp_path / str(number))
            for number, (title, files) in enumerate(distinct().items())}
    assert len(said) > 10
    assert {title: words for title, words in said.items() if words} == {}


@pytest.mark.parametrize("line", ["ExecStrat=/bin/true", "After=network.target nothing at all", "Type=onceshot"])
def test_systemd_finds_what_is_spelt_wrong(line: str, tmp_path: Path) -> None:
    unit = f"[Unit]\nDescription=A unit\n{line if '=n' in line else ''}\n\n[Service]\nExecStart=/bin/true\n{line}\n"
    assert found_by_systemd({f"{UNITS}/wrong.service": unit}, tmp_path)
