"""The recipes that customise a distributor's system, read by the shells and by shellcheck, and run dry."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rendered import ROOT, unshare
from test_shell import SHELLCHECK, found_by_shell

from labctl.base.resources import IMAGES
from labctl.images.builder import LIBRARY, STEP
from labctl.plan import guests

RECIPES = [
    *(IMAGES / guest.recipe for guest in map(guests.load, guests.names()) if guest.recipe and guest.sources),
    *(ROOT / "tests/vm/guests").glob("*.sh"),
]
# Nothing can be written below the root directory, and no program is found but one that does nothing.
DRY = """\
mount -o remount,bind,ro / && exec env -i DRY_RUN=1 MIRROR=http://mirror.example "$@"
"""


@pytest.mark.parametrize("script", [*RECIPES, IMAGES / LIBRARY], ids=lambda path: path.name)
def test_the_shells_and_shellcheck_find_nothing(script: Path) -> None:
    assert [found_by_shell(shell, script.read_text()) for shell in ("sh", "bash")] == ["", ""]
    assert subprocess.run([SHELLCHECK, "--norc", "-f", "gcc", "-x", "-s", "sh", "-P", ROOT, script],
                          capture_output=True, text=True, check=False).stdout == ""


def dry(recipe: Path, shell: str, directory: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run a recipe, beside what it reads, with DRY_RUN."""
    for file in (recipe, IMAGES / LIBRARY):
        shutil.copy(file, directory)
    programs = directory / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "dirname").symlink_to(shutil.which("dirname") or "")
    return subprocess.run([*unshare("-m"), "sh", "-c", DRY, "sh", f"PATH={programs}", *settings,
                           shutil.which(shell) or shell, directory / recipe.name],
                          cwd=directory, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_dry_run_prints_everything_and_does_nothing(recipe: Path, shell: str, tmp_path: Path) -> None:
    done = dry(recipe, shell, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(STEP)
    assert f"{STEP}Seal the image" in lines
    assert all(line.startswith((STEP, "    ")) for line in lines)
    assert any("http://mirror.example" in line for line in lines)


def test_an_installation_disc_comes_before_the_mirror(tmp_path: Path) -> None:
    said = dry(IMAGES / "centos-7.sh", "sh", tmp_path, "ISO=/dev/disc").stdout
    assert "    mount -o ro /dev/disc /run/labctl/iso\n" in said
    assert said.index("baseurl=file:///run/labctl/iso\n") < said.index("baseurl=http://mirror.example/7.9.2009/os/")


def test_what_builds_heartbeat_has_what_its_packages_need() -> None:
    """Where these were built from their sources, with CentOS's packages, it stopped without either."""
    recipe = (IMAGES / "centos-7.sh").read_text()
    (tools,) = re.findall(r'^tools="(.*?)"', recipe, re.MULTILINE | re.DOTALL)
    (spec,) = re.findall(r"SPECS/heartbeat\.spec\" <<'SPEC'\n(.*?)^SPEC$", recipe, re.MULTILINE | re.DOTALL)
    assert "%{_unitdir}" in spec
    assert "systemd" in tools.split()
    assert "xsltproc" not in tools
    makes = re.findall(r"^make\b.*$", spec, re.MULTILINE)
    assert len(makes) == 2
    assert all("man_MANS=" in command.split() for command in makes)


@pytest.mark.parametrize("line", ["rm -f nothing", "echo >/etc/labctl-was-here"])
def test_a_recipe_that_acts_is_caught(line: str, tmp_path: Path) -> None:
    recipe = tmp_path / "made" / "careless.sh"
    recipe.parent.mkdir()
    recipe.write_text(f'. "$(dirname "$0")/{LIBRARY}"\nstep One\n{line}\nseal\n')
    assert dry(recipe, "sh", tmp_path).returncode
    assert not Path("/etc/labctl-was-here").exists()
