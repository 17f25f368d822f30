"""Unit tests: in and out of the pure code, hermetic, the same examples every time."""

import pytest
from hypothesis import settings

settings.register_profile("fast", deadline=None, derandomize=True, database=None)
settings.load_profile("fast")


@pytest.fixture(autouse=True)
def _hermetic(hermetic: None) -> None:
    """Every unit test is."""
