"""Unit tests: in and out of the pure code, hermetic, the same examples every time."""

import sys

import pytest
from hypothesis import settings

from labctl.base.resources import CHECKS

settings.register_profile("fast", deadline=None, derandomize=True, database=None)
settings.load_profile("fast")

sys.path.append(str(CHECKS))  # The checks are no package; what is pure in them is tested like everything else.


@pytest.fixture(autouse=True)
def _hermetic(hermetic: None) -> None:
    """Every unit test is."""
