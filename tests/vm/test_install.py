"""labctl elsewhere: the wheel with its data files, and a bundle on a machine that has nothing, not even a network."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from machines import GUEST, ROOT, TINY, Labctl

from labctl.images import store


@pytest.mark.vm
def test_the_wheel_works_anywhere(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT], check=True)
    wheel, = tmp_path.glob("cluster_labctl-*.whl")
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    subprocess.run([home / "bin/pip", "install", "-q", wheel], check=True)

    def labctl(*words: str) -> str:
        return subprocess.run([home / "bin/labctl", *words], cwd=tmp_path, capture_output=True, text=True,
                              check=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}).stdout

    assert "lvs-dr-keepalived" in labctl("list", "--topologies", "-o", "yaml")
    assert "Keep the VIP quiet" in labctl("steps", "lvs-dr", "rs1")
    assert "10.10.10.100" in labctl("plan", "lvs-dr")
    assert labctl("--version").startswith("labctl 0.")
    help_ = subprocess.run([home / "bin/pytest", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--labctl-lab=NAME" in help_.stdout
    checks = subprocess.run(
        [home / "bin/python", "-I", "-c",
         "from labctl.base import resources as r; print((r.CHECKS / 'test_ipvs.py').is_file(), "
         "(r.IMAGES / 'debian-12.sh').is_file(), r.ROOT)"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert checks.stdout.startswith("True True")
    assert str(home) in checks.stdout


@pytest.mark.vm
def test_a_bundle_sets_up_a_machine_without_a_network(labctl: Labctl, image: store.Image, tmp_path: Path) -> None:
    (tmp_path / "exam.yaml").write_text(TINY)
    file = tmp_path / "course.tar"
    labctl("bundle", "create", str(file), "--image", GUEST, "--topology", str(tmp_path / "exam.yaml"), timeout=600)
    classroom = tmp_path / "classroom"
    classroom.mkdir()

    def without_network(*words: str | Path) -> str:
        user = [] if os.getuid() == 0 else ["--map-root-user", "--map-auto"]
        result = subprocess.run(
            ["unshare", *user, "-n", *words], cwd=classroom, capture_output=True, text=True, check=False,
            env={"PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(classroom),
                 **{name: value for name, value in labctl.environment.items() if name != "LABCTL_GUEST"}})
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    there = classroom / "labctl/bin/labctl"
    without_network("tar", "xf", file, "install.sh")
    said = without_network("sh", "install.sh", file, "labctl")
    assert f"so labs use {GUEST}: 'guest: {GUEST}' is now in {classroom}/.config/labctl/config.yaml" in said
    assert f"PATH={there.parent}:$PATH " in said
    assert "now in" not in without_network("sh", "install.sh", file, "labctl"), "the second time all is there"
    assert (classroom / ".config/labctl/config.yaml").read_text() == f"guest: {GUEST}\n"
    assert f"digest: {image.manifest.digest}" in without_network(there, "image", "inspect", GUEST)
    without_network(there, "up", "exam")
    assert "1 passed" in without_network(there, "test", "-k", "own_page")
    without_network(there, "down")
