"""An image made of a distributor's: pulled, verified, customised in a machine, sealed, and booted in a lab.

The distributor is this machine, with the image of debian-12 on a disk that the BIOS boots.
"""

import functools
import hashlib
import http.server
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import disk_image
import pytest
import yaml
from machines import GUEST, PATIENCE, ROOT, Labctl, program, working_on

from labctl.base.wait import Deadline, until
from labctl.images import store
from labctl.plan import guests

NAME = "debian-disk"
LAB = """\
title: A web server that is its own client
networks:
  lan: { subnet: 10.10.10.0/24, host: 10.10.10.1 }
nodes:
  client: { lan: 10.10.10.11, memory: 384 }
services:
  site: { type: httpd, nodes: [client] }
"""
CONTROL = """\
Package: labctl-greeting
Version: 1.0
Architecture: all
Maintainer: labctl's tests
Description: a package that no other mirror has
"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class Distributor:
    """A labctl that knows the guest, and the distributor's server."""

    labctl: Labctl
    port: int
    data: Path

    def stored(self) -> list[str]:
        """All that is in the store of images."""
        return sorted(path.name for path in (self.data / "labctl/images").glob("*") if path.name != ".lock")

    def processes(self) -> list[str]:
        """What works on something in the stores."""
        return working_on(self.data)


@pytest.fixture
def distributor(labctl: Labctl, image: store.Image, tmp_path: Path) -> Iterator[Distributor]:
    served = tmp_path / "served"
    (served / "images").mkdir(parents=True)
    disk = served / "images/disk.qcow2"
    disk_image.write(image, guests.load(GUEST).kernel_args.replace("/dev/vda", "/dev/vda1"), disk)
    _packages(served / "packages", tmp_path / "package")
    handler = functools.partial(_Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        data = tmp_path / "data"
        labctl.environment |= program(tmp_path / "program", {NAME: _guest(disk, server.server_port)},
                                      ROOT / f"tests/vm/guests/{NAME}.sh")
        labctl.environment |= {"XDG_DATA_HOME": str(data), "NO_PROXY": "127.0.0.1", "LABCTL_GUEST": NAME}
        yield Distributor(labctl, server.server_port, data)
        server.shutdown()
        thread.join()


def _guest(disk: Path, port: int) -> dict[str, object]:
    """The facts of debian-12, but for where its image is from, how it boots, and what it can install."""
    facts = yaml.safe_load((guests.GUESTS / f"{GUEST}.yaml").read_text())
    del facts["kernel_args"]
    with disk.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    facts["facts"]["find_package"] = "apt-get -qq update && apt-get -qq -s install labctl-greeting"
    # The machine reaches this one's loopback interface by another address.
    return {**facts, "title": "Debian on a disk", "boot": "disk", "recipe": f"{NAME}.sh",
            "packages": f"http://10.0.2.2:{port}/packages",
            "sources": [{"mirror": f"http://127.0.0.1:{port}", "path": "images/disk.qcow2", "sha256": digest}]}


def _packages(mirror: Path, package: Path) -> None:
    """A repository with one package."""
    mirror.mkdir()
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(CONTROL)
    (package / "usr/bin").mkdir(parents=True)
    (package / "usr/bin/labctl-greeting").write_text("#!/bin/sh\necho hello\n")
    (package / "usr/bin/labctl-greeting").chmod(0o755)
    deb = mirror / "labctl-greeting_1.0_all.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "--root-owner-group", "-b", package, deb], check=True, capture_output=True)
    (mirror / "Packages").write_text(f"{CONTROL}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\n"
                                     f"SHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}\n")


@pytest.mark.vm
def test_an_image_is_made_of_a_distributors(distributor: Distributor, tmp_path: Path) -> None:
    labctl = distributor.labctl
    assert f"labctl image pull {NAME}" in labctl("image", "build", NAME, code=2).err
    labctl("image", "pull", NAME)

    # Interrupted while the machine runs: nothing is left of it.
    with labctl.start("image", "build", NAME) as build:
        assert until(lambda: any("overlay.qcow2" in command for command in distributor.processes()),
                     Deadline(20 * PATIENCE), 0.1)
        build.send_signal(signal.SIGINT)
        assert build.wait(60) == 130
    assert (distributor.stored(), distributor.processes()) == ([], [])

    built = labctl("image", "build", NAME, timeout=120 * PATIENCE)
    assert "Seal the image\n" in built.err
    assert distributor.processes() == []
    manifest = json.loads(labctl("image", "inspect", NAME, "-o", "json").out)
    assert manifest["packages"]["labctl-greeting"] == "1.0"
    assert manifest["base"]["verified"]
    assert sorted(manifest["files"]) == ["disk.qcow2", "media.img"]

    topology = tmp_path / "alone.yaml"
    topology.write_text(LAB)
    labctl("up", str(topology), timeout=120 * PATIENCE)
    assert labctl("exec", "client", "labctl-greeting").out == "hello\n"
    assert labctl("exec", "client", "sh", "-c", "cd /etc/ssh && echo ssh_host_*").out == (
        "ssh_host_ed25519_key ssh_host_ed25519_key.pub\n")
    labctl("down")


@pytest.mark.vm
@pytest.mark.thorough
def test_a_recipe_that_fails_says_where_and_why(distributor: Distributor) -> None:
    labctl = distributor.labctl
    labctl("image", "pull", NAME)
    nowhere = f"http://10.0.2.2:{distributor.port}/nowhere"
    failed = labctl("image", "build", NAME, "--mirror", nowhere, code=2, timeout=120 * PATIENCE)
    assert (f"The image of '{NAME}' could not be built at the step 'Install from the mirror': the mirror '{nowhere}' "
            "could not be reached.") in failed.err
    log = Path(labctl.environment["XDG_CACHE_HOME"]) / f"labctl/build-{NAME}.log"
    assert str(log) in failed.err
    assert "404  File not found" in log.read_text()
    assert (distributor.stored(), distributor.processes()) == ([], [])
