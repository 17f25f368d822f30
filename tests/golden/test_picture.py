"""The picture of a drill, as it should be. Look at it after a change: `rsvg-convert` makes a PNG of it."""

from pathlib import Path
from xml.etree import ElementTree as ET

from courses import VIP, asked, course

from labctl.observe import picture
from labctl.observe.events import Event
from labctl.observe.promises import Promise

EXPECTED = Path(__file__).with_name("drill.svg")
DRAINED = Promise(kind="nothing", seconds=0, allowed=0, why="nobody is asked there")
REMOVED = Promise(kind="removal", seconds=17, allowed=19, why="its check takes it out of use")


def test_the_picture_is_as_expected(regenerate: bool) -> None:
    drawn = picture.draw([course()])
    if regenerate:
        EXPECTED.write_text(drawn)
    assert drawn == EXPECTED.read_text()


def test_every_drill_can_be_drawn() -> None:
    silent = course(requests=asked(-2, 30, silent=(-2, 30)), promise=None)
    stranger = course(fault="stop <rs1> & httpd", events=(
        Event(at=1, node="lvs-m", kind="table", text="<rs1> left the table"),))
    drawn = picture.draw([course(), silent, stranger, course(requests=(), events=()),
                          course(promise=DRAINED), course(promise=REMOVED)])
    root = ET.fromstring(drawn)
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    assert root.attrib["viewBox"] == f"0 0 {width:g} {height:g}"
    for element in root.iter():
        assert 0 <= float(element.get("x", "0")) <= width
        assert float(element.get("width", "0")) <= width
    texts = [element.text for element in root.iter() if element.tag.endswith("}text")]
    for text in ("crash lvs-m", "3.100 s without an answer", "promised: 3.6 s", f"who has {VIP}", "lost: 30",
                 "30 requests lost", "requests lost for 2.900 s"):
        assert text in texts


def test_a_picture_has_colours_for_light_and_dark() -> None:
    assert picture.draw([course()]).count("prefers-color-scheme: dark") == 1
