"""The fixture that keeps the other tests honest has to bite."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from labctl.base import paths, process


def test_no_program_starts() -> None:
    with pytest.raises(pytest.fail.Exception, match="must not start a program"):
        process.run(["true"])
    with pytest.raises(pytest.fail.Exception, match="must not start a program"):
        subprocess.check_call(["true"])
    with pytest.raises(pytest.fail.Exception, match="must not start a program"):
        os.execvp("true", ["true"])
    with pytest.raises(pytest.fail.Exception, match="must not start a program"):
        os.fork()


def test_nothing_is_connected_to() -> None:
    with socket.socket() as client, pytest.raises(pytest.fail.Exception, match="must not connect"):
        client.connect(("127.0.0.1", 1))


def test_all_files_are_the_tests_own(tmp_path: Path) -> None:
    places = [paths.images(), paths.labs(), paths.cache(), paths.config_file(), Path.home(), Path.cwd()]
    assert all(place.is_relative_to(tmp_path) for place in places), places
