"""labctl.plan.guests: every operating system's facts."""

import pytest
from samples import GUESTS

from labctl.base.errors import LabError
from labctl.base.resources import IMAGES
from labctl.plan import guests


@pytest.mark.parametrize("name", GUESTS)
def test_a_guest_knows_what_the_steps_ask_for(name: str) -> None:
    guest = guests.load(name)
    assert guest.name == name
    known = guests.load(guests.DEFAULT).facts
    assert guest.facts.keys() == {fact for fact in known if fact.partition("_")[0] not in guest.lacks}
    assert (IMAGES / guest.recipe).is_file()
    assert (guest.boot == "direct") == bool(guest.kernel_args)


@pytest.mark.parametrize("name", GUESTS)
def test_where_an_image_is_pulled_from_is_no_part_of_a_plan(name: str) -> None:
    guest = guests.load(name)
    assert not {"sources", "packages", "isos", "lacks", "versions"} & guest.model_dump().keys()
    assert all(source.url.startswith("https://") for source in guest.sources)


def test_the_images_of_the_course() -> None:
    sources = guests.load("centos-7").sources
    assert [source.url for source in sources] == [
        f"https://cloud.centos.org/centos/7/images/CentOS-7-x86_64-GenericCloud-{release}.qcow2"
        for release in (2211, 2009)]
    assert sources[0].model_copy(update={"mirror": "http://mirror.example/centos/"}).url == (
        "http://mirror.example/centos/7/images/CentOS-7-x86_64-GenericCloud-2211.qcow2")


def test_the_guest_that_needs_no_base() -> None:
    assert guests.buildable().name == "debian-12"


def test_an_unknown_guest_is_told_with_the_nearest() -> None:
    with pytest.raises(LabError, match="no guest called 'debian-21'") as caught:
        guests.load("debian-21")
    assert "'debian-12'" in caught.value.hint
