"""labctl is ended at any of its effects, by any signal: afterwards it tells the truth, comes up, and leaves nothing.

The ordinary run takes a seeded sample of moments; `--thorough` takes many more. `--kill-seed` chooses another sample.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import moments
import pytest
from machines import PATIENCE, TINY, Labctl
from moments import Moment


@dataclass(frozen=True)
class Scenario:
    """A command, and what has to be there before it."""

    words: tuple[str, ...]
    is_up: bool = True
    before: tuple[tuple[str, ...], ...] = ()
    """Commands that are given first."""
    after: tuple[tuple[str, ...], ...] = ()
    """Commands that put right what the interrupted one was to do; they have to work."""
    ordinary: int = 1
    thorough: int = 16
    """How many moments are tried."""


SCENARIOS = {
    "up": Scenario(("up", "{file}"), is_up=False, ordinary=2, thorough=40),
    "up --cold": Scenario(("up", "{file}", "--cold"), is_up=False),
    "up --from": Scenario(("up", "{file}", "--from", "kept"), is_up=False),
    "down": Scenario(("down", "tiny"), thorough=24),
    "reset": Scenario(("reset", "tiny"), thorough=24),
    "reset NODE": Scenario(("reset", "tiny/web")),
    "reboot": Scenario(("reboot", "tiny/web"), thorough=8),
    "test": Scenario(("test", "tiny"), thorough=12),
    "undo": Scenario(("undo", "tiny/site"), after=(("apply", "tiny/site"),)),
    "apply": Scenario(("apply", "tiny/site"), before=(("undo", "tiny/site"),), after=(("apply", "tiny/site"),)),
    "checkpoint save": Scenario(("checkpoint", "save", "new", "--lab", "tiny"), thorough=24),
    "checkpoint restore": Scenario(("checkpoint", "restore", "kept", "--lab", "tiny")),
    "checkpoint rm": Scenario(("checkpoint", "rm", "new", "--lab", "tiny"),
                              before=(("checkpoint", "save", "new", "--lab", "tiny"),), ordinary=0, thorough=8),
    "gc": Scenario(("gc",), ordinary=0, thorough=4),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each moment."""
    if "moment" in metafunc.fixturenames:
        thorough = metafunc.config.getoption("--thorough")
        counts = [(name, each.thorough if thorough else each.ordinary) for name, each in SCENARIOS.items()]
        metafunc.parametrize("moment", moments.sample(counts, metafunc.config), ids=str)


class Rig:
    """A small lab whose commands are ended."""

    def __init__(self, labctl: Labctl, directory: Path) -> None:
        self.labctl = labctl
        self._file = directory / "tiny.yaml"
        self._file.write_text(TINY)
        self._counts: dict[str, int] = {}
        self.up()
        self.labctl("checkpoint", "save", "kept", "--lab", "tiny")

    def up(self) -> None:
        """Bring the lab up, whatever is there of it."""
        self.labctl("up", str(self._file), timeout=120 * PATIENCE, LABCTL_ONCE="0")

    def prepare(self, scenario: Scenario) -> None:
        """Make the state that a command starts from."""
        self.labctl("checkpoint", "rm", "new", "--lab", "tiny", code=None)
        if scenario.is_up:
            self.up()
        else:
            self.labctl("down", "tiny", code=None)
        for words in scenario.before:
            self.labctl(*words)

    def end(self, scenario: Scenario, number: int = 0, signal_: str = "SIGKILL") -> moments.Ended:
        """Run its command and end it at an effect."""
        return moments.end(self.labctl, [word.format(file=self._file) for word in scenario.words], number, signal_)

    def count(self, moment: Moment) -> int:
        """How many effects the command has when nothing ends it."""
        if moment.name not in self._counts:
            scenario = SCENARIOS[moment.name]
            self.prepare(scenario)
            ended = self.end(scenario)
            assert ended.code == 0, str(ended)
            self._counts[moment.name] = len(ended.effects)
        return self._counts[moment.name]

    def tells_the_truth(self) -> None:
        """A lab that is said to be up has nodes that answer."""
        rows = self.labctl.json("list")
        if rows and rows[0]["state"] == "up":
            states = {node["node"]: node["state"] for node in self.labctl.json("status", "tiny")["nodes"]}
            assert set(states.values()) == {"running"}, states
            self.labctl("exec", "tiny/*", "true")

    def serves(self) -> None:
        """The client gets the page."""
        assert self.labctl("exec", "tiny/client", "curl", "-sf", "-m", "20", "http://web/").out == "web\n"


@pytest.fixture(scope="module")
def rig(make_labctl: Callable[[], Labctl], tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """The lab that is used for all moments."""
    return Rig(make_labctl(), tmp_path_factory.mktemp("rig"))


@pytest.mark.vm
def test_a_command_that_is_ended(moment: Moment, rig: Rig) -> None:
    scenario = SCENARIOS[moment.name]
    number = 1 + int(moment.share * rig.count(moment))
    rig.prepare(scenario)
    ended = rig.end(scenario, number, moment.signal)
    assert ended.as_it_should(moment.signal), str(ended)
    try:
        rig.tells_the_truth()
        rig.up()
        for words in scenario.after:
            rig.labctl(*words)
        rig.serves()
        rig.labctl("down", "tiny")
        assert rig.labctl.leftovers() == []
    except AssertionError as error:
        raise AssertionError(f"{ended}\n{error}") from error
