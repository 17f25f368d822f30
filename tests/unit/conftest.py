"""Unit tests: in and out of the pure code, hermetic, the same examples every time."""

from pathlib import Path

import pytest
from hypothesis import settings

from labctl.machines import sockets

settings.register_profile("ordinary", deadline=None, derandomize=True, database=None, max_examples=60)
settings.register_profile("thorough", settings.get_profile("ordinary"), max_examples=600)


def pytest_configure(config: pytest.Config) -> None:
    """Have Hypothesis try few or many examples."""
    settings.load_profile("thorough" if config.getoption("--thorough") else "ordinary")


@pytest.fixture(autouse=True)
def _hermetic(hermetic: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """Every unit test is."""
    monkeypatch.setattr(sockets, "_TEMPORARY", tmp_path)
