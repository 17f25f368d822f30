"""labctl.guests: every operating system's facts."""

import pytest
from samples import GUESTS

from labctl import guests
from labctl.errors import LabError
from labctl.resources import IMAGES


@pytest.mark.parametrize("name", GUESTS)
def test_a_guest_knows_what_the_steps_ask_for(name: str) -> None:
    guest = guests.load(name)
    assert guest.name == name
    assert guest.facts.keys() == guests.load(guests.DEFAULT).facts.keys()
    assert guest.recipe is None or (IMAGES / guest.recipe).is_file()
    assert (guest.boot == "direct") == bool(guest.kernel_args)


def test_an_unknown_guest_is_told_with_the_nearest() -> None:
    with pytest.raises(LabError, match="no guest called 'debian-21'") as caught:
        guests.load("debian-21")
    assert "'debian-12'" in caught.value.hint
