"""The wheel, in an empty virtual environment elsewhere: data files and all."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conftest import ROOT


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
    checks = subprocess.run(
        [home / "bin/python", "-I", "-c",
         "from labctl import resources as r; print((r.CHECKS / 'test_ipvs.py').is_file(), "
         "(r.IMAGES / 'debian-12.sh').is_file(), r.ROOT)"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert checks.stdout.startswith("True True")
    assert str(home) in checks.stdout
