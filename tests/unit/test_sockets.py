"""labctl.machines.sockets: a place that the environment does not change."""

import os
from ipaddress import IPv4Address
from pathlib import Path
from uuid import uuid4

import pytest

from labctl.base.errors import LabError
from labctl.machines import sockets

LAB = Path("/state/labs/lab")


def test_the_place_is_short_and_the_same_whatever_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """107 bytes; ssh makes a socket under a longer name first."""
    monkeypatch.undo()
    instance = uuid4()
    place = sockets.place(instance)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/elsewhere")
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    assert sockets.place(instance) == place
    monkeypatch.setattr(os, "getuid", lambda: 2**32 - 2)
    longest = sockets.serial(sockets.place(instance), IPv4Address("255.255.255.255"))
    assert len(str(longest)) + len(".0123456789abcdef") <= 107


def test_it_is_made_for_its_user_alone_and_goes_only_with_its_lab() -> None:
    place = sockets.place(uuid4())
    sockets.make(place, LAB)
    sockets.make(place, LAB)
    assert {each.stat().st_mode & 0o777 for each in (place, place.parent)} == {0o700}
    assert sockets.whose(place) == LAB
    assert list(sockets.directories()) == [place]
    sockets.remove(place, LAB.with_name("other"))
    assert place.exists()
    sockets.remove(place, LAB)
    assert not place.exists()


def test_nothing_is_put_where_somebody_else_could_have_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = sockets.place(uuid4())
    (tmp_path / "theirs").mkdir()
    place.parent.symlink_to(tmp_path / "theirs")
    with pytest.raises(LabError, match="somebody else's"):
        sockets.make(place, LAB)
    place.parent.unlink()
    place.parent.mkdir(mode=0o755)
    with pytest.raises(LabError, match="open to others") as caught:
        sockets.make(place, LAB)
    assert f"chmod 700 {place.parent}" in caught.value.hint
    place.parent.chmod(0o700)
    real = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: real + 1)
    with pytest.raises(LabError, match="somebody else's"):
        sockets.make(place, LAB)


def test_other_directories_are_nobodys(tmp_path: Path) -> None:
    (tmp_path / "lab").write_text(str(LAB))
    assert sockets.whose(tmp_path) is None
    sockets.remove(tmp_path, LAB)
    assert (tmp_path / "lab").exists()
