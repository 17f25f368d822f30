"""labctl as it is typed, in the process of the tests."""

import pytest
from typer.testing import CliRunner, Result

from labctl.base.errors import LabError
from labctl.cli import app


def typed(*words: str) -> Result:
    """A command that works."""
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def refused(*words: str) -> LabError:
    """What a command that does not work says."""
    with pytest.raises(LabError) as caught:
        CliRunner().invoke(app, words, catch_exceptions=False)
    return caught.value
