"""labctl.language.catalog: topologies by name and by path."""

from pathlib import Path

import pytest
from samples import BASE, SHIPPED

from labctl.base import paths
from labctl.base.errors import InputError, LabError
from labctl.language import catalog


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A topology of the user's own, in ./topologies."""
    path = tmp_path / "topologies" / "lvs-dr.yaml"
    path.parent.mkdir()
    path.write_text(BASE)
    return path


def test_shipped_topologies_have_names() -> None:
    assert SHIPPED
    assert catalog.names() == {path.stem: path for path in SHIPPED}
    assert catalog.find("lvs-dr") in SHIPPED


def test_the_working_directorys_own_goes_first(own: Path) -> None:
    assert catalog.find("lvs-dr").resolve() == own
    assert catalog.names().keys() == {path.stem for path in SHIPPED}


def test_what_a_bundle_brought_goes_before_the_shipped_ones(tmp_path: Path) -> None:
    brought = paths.topologies() / "lvs-dr.yaml"
    brought.parent.mkdir(parents=True)
    brought.write_text(BASE)
    assert catalog.find("lvs-dr") == brought
    (tmp_path / "topologies").mkdir()
    (tmp_path / "topologies" / "lvs-dr.yaml").write_text(BASE)
    assert catalog.find("lvs-dr") == Path("topologies/lvs-dr.yaml")


@pytest.mark.parametrize("wanted", ["./lab.yaml", "lab.yaml", "./lab"])
def test_a_path_is_a_path(tmp_path: Path, wanted: str) -> None:
    (tmp_path / wanted).write_text(BASE)
    assert catalog.find(wanted) == Path(wanted)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(LabError, match="no topology called 'lvs-rd'") as caught:
        catalog.find("lvs-rd")
    assert "'lvs-dr'" in caught.value.hint


@pytest.mark.parametrize("wanted", ["./lvs-dr.yaml", "lvs-dr.yaml", "topologies/lvs-dr", "."])
def test_a_path_without_a_file_is_no_topology(wanted: str) -> None:
    with pytest.raises(LabError, match="There is no"):
        catalog.find(wanted)


def test_a_topology_is_loaded_and_its_mistakes_name_the_file(own: Path) -> None:
    assert catalog.load(own).title == "Test bed"
    own.write_text("title: x\n")
    with pytest.raises(InputError, match=r"lvs-dr\.yaml:1: 'networks' is missing"):
        catalog.load(own)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_told(name: str) -> None:
    with pytest.raises(LabError, match="cannot be read"):
        catalog.load(Path(name))


def test_a_lab_is_called_like_its_file_or_as_wanted() -> None:
    assert catalog.lab_name(Path("a/lvs-dr.yaml"), None) == "lvs-dr"
    assert catalog.lab_name(Path("a/lvs-dr.yaml"), "exam-1") == "exam-1"


@pytest.mark.parametrize("name", ["a b", "a/b", "..", "my_lab", "-x", "x-", "a\n", "x" * 33, "a.b", "$HOME"])
def test_a_name_that_is_fit_for_no_lab_is_told_with_the_way_out(name: str) -> None:
    with pytest.raises(LabError, match="is not a valid name for a lab") as caught:
        catalog.lab_name(Path("lab.yaml"), name)
    assert "--name" in caught.value.hint
    with pytest.raises(LabError, match="is not a valid name for a lab"):
        catalog.lab_name(Path("my_lab.yaml"), None)


def test_a_name_that_is_a_file_here_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(BASE)
    with pytest.raises(LabError, match="no topology called 'my'") as caught:
        catalog.find("my")
    assert caught.value.hint == "The file here is called './my.yaml'."
    assert catalog.load(catalog.find("./my.yaml")).title == "Test bed"
