"""labctl is ended at any of its effects, by any signal: afterwards it tells the truth, comes up, and leaves nothing.

The ordinary run takes a seeded sample of moments; `--thorough` takes many more. `--kill-seed` chooses another sample.
"""

import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from machines import PATIENCE, TINY, Labctl

_EFFECTS = Path(__file__).with_name("effects.py")
_SIGNALS = ("SIGKILL", "SIGINT", "SIGTERM", "SIGHUP")
_INTERRUPTED = 130


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
    "up": Scenario(("up", "{file}"), is_up=False, ordinary=3, thorough=40),
    "up --cold": Scenario(("up", "{file}", "--cold"), is_up=False, ordinary=1, thorough=16),
    "up --from": Scenario(("up", "{file}", "--from", "kept"), is_up=False),
    "down": Scenario(("down", "tiny"), ordinary=2, thorough=24),
    "reset": Scenario(("reset", "tiny"), ordinary=2, thorough=24),
    "reset NODE": Scenario(("reset", "tiny/web")),
    "reboot": Scenario(("reboot", "tiny/web"), thorough=8),
    "test": Scenario(("test", "tiny"), thorough=12),
    "undo": Scenario(("undo", "tiny/site"), after=(("apply", "tiny/site"),)),
    "apply": Scenario(("apply", "tiny/site"), before=(("undo", "tiny/site"),), after=(("apply", "tiny/site"),)),
    "checkpoint save": Scenario(("checkpoint", "save", "new", "--lab", "tiny"), ordinary=2, thorough=24),
    "checkpoint restore": Scenario(("checkpoint", "restore", "kept", "--lab", "tiny")),
    "checkpoint rm": Scenario(("checkpoint", "rm", "new", "--lab", "tiny"),
                              before=(("checkpoint", "save", "new", "--lab", "tiny"),), ordinary=0, thorough=8),
    "gc": Scenario(("gc",), ordinary=0, thorough=4),
}


@dataclass(frozen=True)
class Moment:
    """A point in a command's effects, as a share of them, and the signal that comes then."""

    name: str
    signal: str
    share: float

    def __str__(self) -> str:
        return f"{self.name}-{self.signal}-{self.share:.3f}"


def sample(seed: int, thorough: bool) -> list[Moment]:
    """The moments to try. SIGKILL, after which nothing can be put right, is tried as often as the others together."""
    chance = random.Random(seed)
    moments = []
    for name, scenario in SCENARIOS.items():
        for number in range(scenario.thorough if thorough else scenario.ordinary):
            signal_ = "SIGKILL" if number % 2 == 0 else chance.choice(_SIGNALS[1:])
            moments.append(Moment(name, signal_, chance.random()))
    return moments


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each moment."""
    if "moment" in metafunc.fixturenames:
        moments = sample(metafunc.config.getoption("--kill-seed"), metafunc.config.getoption("--thorough"))
        metafunc.parametrize("moment", moments, ids=str)


class Rig:
    """A small lab whose commands are ended."""

    def __init__(self, labctl: Labctl, directory: Path) -> None:
        self.labctl = labctl
        self._file = directory / "tiny.yaml"
        self._file.write_text(TINY)
        self._record = directory / "effects"
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

    def run(self, scenario: Scenario, number: int, signal_: str) -> tuple[int, str]:
        """Run its command and end it at an effect; returns the exit code and what it said."""
        self._record.unlink(missing_ok=True)
        words = [word.format(file=self._file) for word in scenario.words]
        command = [sys.executable, str(_EFFECTS), str(number), signal_, str(self._record), *words]
        result = self.labctl.run(command, code=None, timeout=120 * PATIENCE, LABCTL_ONCE="0")
        return result.code, result.out + result.err

    def count(self, moment: Moment) -> int:
        """How many effects the command has when nothing ends it."""
        if moment.name not in self._counts:
            scenario = SCENARIOS[moment.name]
            self.prepare(scenario)
            code, said = self.run(scenario, 0, "SIGKILL")
            assert code == 0, said
            self._counts[moment.name] = len(self.effects())
        return self._counts[moment.name]

    def effects(self) -> list[str]:
        """What the last command did."""
        return self._record.read_text().splitlines()

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
    code, said = rig.run(scenario, number, moment.signal)
    effects = rig.effects()
    where = f"at effect {number} of {len(effects)}, '{effects[min(number, len(effects)) - 1]}'\n{said}"
    assert "Traceback" not in said, where
    expected = {-signal.SIGKILL} if moment.signal == "SIGKILL" else {_INTERRUPTED, 0}
    # A command may end before it has as many effects as the one that was counted.
    assert code in expected | ({0} if len(effects) < number else set()), where
    try:
        rig.tells_the_truth()
        rig.up()
        for words in scenario.after:
            rig.labctl(*words)
        rig.serves()
        rig.labctl("down", "tiny")
        assert rig.labctl.leftovers() == []
    except AssertionError as error:
        raise AssertionError(f"{where}\n{error}") from error
