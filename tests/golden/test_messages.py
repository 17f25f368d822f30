"""Malformed topologies, and word by word what labctl says about them."""

from pathlib import Path

import pytest

from labctl.base.errors import InputError
from labctl.language import catalog

ERRORS = Path(__file__).parent / "errors"
FILES = sorted(ERRORS.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_message_is_as_expected(path: Path, regenerate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ERRORS)
    with pytest.raises(InputError) as caught:
        catalog.load(Path(path.name))
    made = f"{caught.value.message}\n"
    expected = path.with_suffix(".txt")
    if regenerate:
        expected.write_text(made)
    assert expected.is_file(), "there is no expected file; --regenerate writes it"
    assert made == expected.read_text()


def test_every_message_has_its_file() -> None:
    assert FILES
    assert {path.stem for path in ERRORS.glob("*.txt")} == {path.stem for path in FILES}
