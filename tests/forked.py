"""labctl in a process that need not import it first: a server has done so once, and forks for each command.

A command's process takes 0.8 s of the processor to import labctl, and one that runs checks twice that; the tests of
real labs start hundreds. This module imports nothing of labctl, so that it costs nothing before the fork.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import TimeoutExpired
from tempfile import TemporaryDirectory

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["labctl.cli", "labctl.observe.checks", "labctl.machines.provider", "testinfra"])
_SECONDS_TO_END = 30
"""For a command to take down what it began."""


def run(arguments: Sequence[str], environment: Mapping[str, str], timeout: float) -> tuple[int, str, str]:
    """The exit code of `labctl ARGUMENTS` (negative: a signal's number), what it printed, and what it said.

    Raises TimeoutExpired; the process is ended then, as it is when the caller is interrupted.
    """
    with TemporaryDirectory(prefix="labctl-") as directory:
        out, err = Path(directory, "out"), Path(directory, "err")
        process = _SERVER.Process(target=_labctl, args=(arguments, environment, out, err))
        process.start()
        try:
            process.join(timeout)
            if process.exitcode is None:
                raise TimeoutExpired(["labctl", *arguments], timeout)
            return process.exitcode, out.read_text(), err.read_text()
        finally:
            for end in (process.terminate, process.kill):
                if process.exitcode is None:
                    end()
                    process.join(_SECONDS_TO_END)


def _labctl(arguments: Sequence[str], environment: Mapping[str, str], out: Path, err: Path) -> None:
    for path, flags, number in ((Path(os.devnull), os.O_RDONLY, 0), (out, os.O_WRONLY | os.O_CREAT, 1),
                                (err, os.O_WRONLY | os.O_CREAT, 2)):
        os.dup2(os.open(path, flags), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["labctl", *arguments]
    from labctl.__main__ import main  # noqa: PLC0415 (the server has loaded it)

    main()
