"""Golden files: what labctl makes of known input, kept as it should be."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--regenerate` writes the expected files anew; `git diff` then shows what changed."""
    parser.addoption(
        "--regenerate", action="store_true", help="rewrite the golden files with what is made now"
    )


@pytest.fixture(autouse=True)
def _hermetic(hermetic: None) -> None:
    """Every golden test is."""


@pytest.fixture
def regenerate(request: pytest.FixtureRequest) -> bool:
    """Whether to write the expected files instead of comparing with them."""
    return bool(request.config.getoption("--regenerate"))
