"""`labctl image pull` and its kin, as they are typed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import refused, typed
from helpers import stored
from mirror import Mirror

from labctl.base import paths
from labctl.base.errors import LabError
from labctl.images import bases, store
from labctl.plan import guests
from labctl.plan.guests import Guest

_MAIN = "import sys, pathlib, labctl.plan.guests; labctl.plan.guests.GUESTS = pathlib.Path(sys.argv.pop(1)); " \
        "import labctl.__main__; labctl.__main__.main()"
_ON_A_SMALL_DISK = 'mount -t tmpfs -o size=1m tmpfs "$XDG_DATA_HOME" && "$@"; status=$?; ' \
                   'find "$XDG_DATA_HOME" -type f ! -name ".*.lock"; exit $status'
_CHUNK = 64 * 1024


def program(*words: str) -> list[str]:
    """The command as a program of its own, with the guests of the test."""
    return [sys.executable, "-c", _MAIN, str(guests.GUESTS), *words]


@pytest.mark.usefixtures("guest")
def test_pull_says_what_it_does_in_a_few_lines(mirror: Mirror, image: bytes) -> None:
    said = typed("image", "pull", "centos-7")
    assert said.stdout == ""
    first, *counts, last = said.stderr.splitlines()
    assert first == f"Pulling {mirror.url}{mirror.path}"
    assert len(counts) == 4
    assert counts[-1] == "1 MiB of 1 MiB"
    base = bases.find("centos-7")
    assert last == f"The base of 'centos-7' is {base.disk} (1 MiB, sha256 {base.manifest.sha256})."
    assert typed("image", "pull", "centos-7").stderr.splitlines()[0] == "The base of 'centos-7' is there already."
    assert mirror.served == [len(image)]


@pytest.mark.usefixtures("guest")
def test_pull_from_another_mirror(mirror: Mirror) -> None:
    assert "'mirror.example/7/images/disk-2211.qcow2' is not a URL" in refused(
        "image", "pull", "centos-7", "--mirror", "mirror.example").message
    assert mirror.asked == []
    mirror.path = f"/centos{mirror.path}"
    typed("image", "pull", "centos-7", "--mirror", f"{mirror.url}/centos")
    assert mirror.asked == [(mirror.path, None)]


@pytest.mark.usefixtures("guest")
def test_import_and_list_and_rm(tmp_path: Path, image: bytes) -> None:
    file = tmp_path / "own.qcow2"
    file.write_bytes(image + bytes(512))
    assert "'--unverified'" in refused("image", "import", "centos-7", str(file)).hint
    said = typed("image", "import", "centos-7", str(file), "--unverified").stderr
    assert "The unverified base of 'centos-7' is " in said
    row = typed("image", "list").stdout.splitlines()[1]
    assert row.startswith("centos-7  unverified base  ")
    listed, = json.loads(typed("image", "list", "-o", "json").stdout)
    assert (listed["image"], listed["kind"], listed["verified"]) == ("centos-7", "base", False)
    assert listed["origin"] == str(file)
    assert typed("image", "rm", "centos-7").stderr == "The base of 'centos-7' is gone.\n"
    assert stored() == {}
    assert "There is no image of 'centos-7'" in refused("image", "rm", "centos-7").message


@pytest.mark.usefixtures("guest")
def test_rm_takes_the_image_first_and_says_that_the_base_is_kept(tmp_path: Path, image: bytes) -> None:
    file = tmp_path / "own.qcow2"
    file.write_bytes(image)
    typed("image", "import", "centos-7", str(file))
    manifest = store.Manifest(guest="centos-7", built=bases.find("centos-7").manifest.added, recipe_sha256="",
                              files={"disk.qcow2": store.ImageFile(sha256="0" * 64, size=len(image))}, packages={})
    home = paths.images() / f"sha256-{manifest.digest}"
    home.mkdir(parents=True)
    (home / "manifest.json").write_text(manifest.model_dump_json())
    (home / "disk.qcow2").write_bytes(image)
    (paths.images() / "centos-7").symlink_to(home.name)
    assert [line.split()[:2] for line in typed("image", "list").stdout.splitlines()[1:]] == [
        ["centos-7", "image"], ["centos-7", "base"]]
    assert "Its base is kept; another 'labctl image rm centos-7' removes it." in typed("image", "rm", "centos-7").stderr
    assert bases.find("centos-7")
    typed("image", "rm", "centos-7")
    assert stored() == {}


@pytest.mark.usefixtures("guest")
def test_rm_takes_what_is_left_of_a_pull() -> None:
    paths.bases().mkdir(parents=True)
    (paths.bases() / ".centos-7.part").touch()
    typed("image", "rm", "centos-7")
    assert stored() == {}


@pytest.mark.usefixtures("guest")
def test_an_image_is_made_of_a_base(tmp_path: Path, image: bytes) -> None:
    assert "'labctl image pull centos-7' gets it" in refused("image", "build", "centos-7").hint
    file = tmp_path / "own.qcow2"
    file.write_bytes(image)
    typed("image", "import", "centos-7", str(file))
    with pytest.raises(LabError, match="There is no image of 'centos-7' in the store") as caught:
        store.find("centos-7")
    assert caught.value.hint == "'labctl image build centos-7' builds it."
    assert refused("image", "build", "centos-7", "--iso", str(file)).message.startswith(
        f"'{file}' is not an installation disc of CentOS 7.9 that labctl knows")


def test_a_guest_that_is_not_pulled(guest: Guest) -> None:
    assert guest.sources
    for words in (["pull", "debian-12"], ["import", "debian-12", "disk.qcow2"]):
        error = refused("image", *words)
        assert error.message == "There is nothing to pull or import for 'debian-12'."
        assert "labctl image build debian-12" in error.hint
    assert "'centos-7'" in refused("image", "pull", "centos-77").hint


@pytest.mark.usefixtures("guest")
def test_two_pulls_at_once_and_ctrl_c(mirror: Mirror, image: bytes) -> None:
    half = 10 * _CHUNK
    mirror.stall = [half]
    with subprocess.Popen(program("image", "pull", "centos-7"), stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        for line in first.stderr:
            if " of " in line:
                break
        second = subprocess.run(program("image", "pull", "centos-7"), capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert second.stderr == ("labctl: Another labctl is pulling, importing or removing the base of 'centos-7'.\n"
                                 "        Try again when it is done.\n")
        first.send_signal(signal.SIGINT)
        assert first.stderr.read().splitlines()[-1] == "labctl: interrupted."
        assert first.wait(10) == 130
    part = (paths.bases() / ".centos-7.part").stat().st_size
    assert part
    assert not bases.exists("centos-7")
    typed("image", "pull", "centos-7")
    assert mirror.served[1:] == [len(image) - part]


@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize("command", ["pull", "import"])
def test_a_disk_that_is_full_in_the_middle(mirror: Mirror, tmp_path: Path, image: bytes, command: str) -> None:
    """In a mount namespace with a disk of its own, of 1 MiB."""
    mirror.length = False  # Told before, the transfer would not even begin.
    file = tmp_path / "own.qcow2"
    file.write_bytes(image)
    paths.bases().parent.parent.mkdir(parents=True)
    user = [] if os.getuid() == 0 else ["--map-root-user"]
    words = program("image", command, "centos-7", *([str(file)] if command == "import" else []))
    result = subprocess.run(["unshare", *user, "-m", "sh", "-c", _ON_A_SMALL_DISK, "sh", *words],
                            capture_output=True, text=True, check=False)
    needs = "needs more" if command == "pull" else "needs 2 MiB"
    assert f"labctl: There is not enough room in '{paths.bases()}': the file {needs}.\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == "", "files that are left"
    assert result.returncode == 2
    assert command == "import" or mirror.asked == [(mirror.path, None)]
