"""labctl.images.builder: what is told while a machine builds, and when it is given up; building is for tests/vm."""

from pathlib import Path

import pytest

from labctl.base import files
from labctl.base.errors import LabError
from labctl.images import builder
from labctl.plan import guests

LOG = """\
The machine is up.\r
==> Install what builds heartbeat\r
+ yum

==> Build heartbeat\r
gcc: error\r
"""


class Machine:
    """What a machine has said so far, and who watches it."""

    def __init__(self, directory: Path, log: str, console: str, patience: float) -> None:
        self.log, self.console = directory / "build.log", directory / "build.console.log"
        self.log.write_text(log)
        self.console.write_text(console)
        self.said: list[str] = []
        self.watch = builder.Watch(guests.load("centos-7"), directory, self.log, self.console, patience,
                                   self.said.append)

    def given_up(self) -> LabError:
        """Why nobody waits any longer."""
        with pytest.raises(LabError) as caught:
            self.watch()
        return caught.value


def test_the_console_is_beside_the_log(tmp_path: Path) -> None:
    assert builder.console_of(tmp_path / "build-centos-7.log") == tmp_path / "build-centos-7.console.log"


def test_each_step_is_told_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "The machine is up.\r\n", "", 1)
    machine.watch()
    machine.log.write_text(LOG)
    machine.watch()
    machine.watch()
    assert machine.said == ["Build heartbeat"]
    assert builder.last_step(machine.log) == ("Build heartbeat", ["gcc: error"])


def test_before_the_first_step_all_that_is_said_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\n\ntwo\n")
    assert builder.last_step(log) == ("", ["one", "two"])


@pytest.mark.parametrize(("console", "cause"), [
    ("SeaBIOS\r\nNo bootable device.\r\n\r\n", ": No bootable device."),
    ("", "; its console is silent."),
])
def test_a_machine_that_does_not_come_up(tmp_path: Path, console: str, cause: str) -> None:
    machine = Machine(tmp_path, "", console, 0)
    error = machine.given_up()
    assert error.message.startswith(f"The machine that builds 'centos-7' does not come up{cause}")
    assert str(machine.console) in error.hint


def test_a_recipe_without_an_end(tmp_path: Path) -> None:
    machine = Machine(tmp_path, LOG, "", 0)
    error = machine.given_up()
    assert error.message == ("The machine that builds 'centos-7' is not done after 0 minutes. It was at the step "
                             "'Build heartbeat'.")
    assert str(machine.log) in error.hint


def test_a_disk_that_becomes_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_disk", lambda directory: (255, directory))
    assert "There is not enough room" in Machine(tmp_path, LOG, "", 1).given_up().message
