"""labctl.store: images by name and by content; building is for the tests that may start programs."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from labctl import paths, store
from labctl.errors import LabError
from labctl.store import ImageFile, Manifest


def manifest(files: dict[str, ImageFile], built: int = 2024) -> Manifest:
    return Manifest(
        guest="debian-12",
        built=datetime(built, 1, 1, tzinfo=UTC),
        recipe_sha256="0" * 64,
        files=files,
        packages={"curl": "7.88"},
    )


DISK = ImageFile(sha256="a" * 64, size=4)
KERNEL = ImageFile(sha256="b" * 64, size=6)


@pytest.fixture
def image() -> Path:
    """An image in the store; returns the directory of its files."""
    made = manifest({"disk.qcow2": DISK, "vmlinuz": KERNEL})
    home = paths.images() / f"sha256-{made.digest}"
    home.mkdir(parents=True)
    (home / "disk.qcow2").write_text("disk")
    (home / "vmlinuz").write_text("kernel")
    (home / "manifest.json").write_text(made.model_dump_json())
    (paths.images() / "debian-12").symlink_to(home.name)
    return home


def test_the_digest_is_of_the_files_and_nothing_else() -> None:
    one = manifest({"disk.qcow2": DISK, "vmlinuz": KERNEL})
    assert one.digest == manifest({"vmlinuz": KERNEL, "disk.qcow2": DISK}, built=2025).digest
    others = [manifest({"disk.qcow2": DISK}), manifest({"disk.qcow2": KERNEL, "vmlinuz": DISK}), manifest({})]
    assert len({one.digest, *(other.digest for other in others)}) == 4


def test_a_manifest_survives_json() -> None:
    made = manifest({"disk.qcow2": DISK})
    assert Manifest.model_validate_json(made.model_dump_json()) == made


def test_an_empty_store_has_no_images_and_says_how_to_get_one() -> None:
    assert store.images() == []
    with pytest.raises(LabError, match="no image of 'debian-12'") as caught:
        store.find("debian-12")
    assert "labctl image build debian-12" in caught.value.hint


def test_an_image_is_found(image: Path) -> None:
    found = store.find("debian-12")
    assert store.images() == [found]
    assert found.path == image
    assert (found.disk, found.kernel, found.initrd) == (image / "disk.qcow2", image / "vmlinuz", None)
    assert found.size == 10


@pytest.mark.parametrize("damage", ["gone", "short", "manifest"])
def test_a_damaged_image_is_told_with_the_way_out(image: Path, damage: str) -> None:
    match damage:
        case "gone":
            (image / "vmlinuz").unlink()
        case "short":
            (image / "disk.qcow2").write_text("dis")
        case _:
            (image / "manifest.json").write_text("{}")
    with pytest.raises(LabError, match="The image of 'debian-12' is damaged") as caught:
        store.find("debian-12")
    assert "labctl image build debian-12" in caught.value.hint


def test_an_image_is_removed_unless_labs_run_on_it(image: Path) -> None:
    with pytest.raises(LabError, match="in use by a, b") as caught:
        store.remove("debian-12", ["b", "a"])
    assert "labctl down a" in caught.value.hint
    assert image.exists()
    store.remove("debian-12", [])
    assert not image.exists()
    assert store.images() == []
    with pytest.raises(LabError, match="no image of 'debian-12'"):
        store.remove("debian-12", [])
