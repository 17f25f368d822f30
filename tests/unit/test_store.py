"""labctl.images.store: images by name and by content; building is for the tests that may start programs."""

from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest

from labctl.base import paths
from labctl.base.errors import LabError
from labctl.base.files import sha256
from labctl.base.resources import IMAGES
from labctl.images import bases, builder, store
from labctl.images.builder import RecipeError
from labctl.images.store import ImageFile, Manifest
from labctl.plan import guests


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
    others = [manifest({"disk.qcow2": DISK}), manifest({"disk.qcow2": KERNEL, "vmlinuz": DISK})]
    assert len({one.digest, *(other.digest for other in others)}) == 3


def test_a_manifest_survives_json() -> None:
    made = manifest({"disk.qcow2": DISK})
    assert Manifest.model_validate_json(made.model_dump_json()) == made


def test_an_empty_store_has_no_images_and_says_how_to_get_one() -> None:
    assert store.images() == []
    with pytest.raises(LabError, match="no image of 'debian-12'") as caught:
        store.find("debian-12")
    assert "labctl image build debian-12" in caught.value.hint


def have_base(name: str) -> None:
    """Put the base of a guest into the store."""
    home = paths.bases() / f"{name}_x"
    home.mkdir(parents=True)
    (home / "disk.qcow2").write_bytes(b"disk")
    (home / "manifest.json").write_text(bases.Manifest(
        guest=name, origin="http://mirror.example/disk.qcow2", sha256="c" * 64, size=4, verified=True,
        added=datetime(2024, 1, 1, tzinfo=UTC)).model_dump_json())
    (paths.bases() / name).symlink_to(home.name)


@pytest.mark.parametrize(("name", "base", "hint"), [
    ("centos-7", False, "'labctl image pull centos-7' gets what it is made of, then 'labctl image build centos-7' "
                        "builds it. Or 'labctl image build debian-12' builds one, then '--guest debian-12' (or "),
    ("rocky-9", True, "'labctl image build rocky-9' builds it."),
])
def test_the_way_to_an_image_of_a_base(name: str, base: bool, hint: str) -> None:
    if base:
        have_base(name)
    with pytest.raises(LabError) as caught:
        store.find(name)
    assert caught.value.hint.startswith(hint)


def test_nothing_is_built_without_a_base() -> None:
    with pytest.raises(LabError, match="There is no base of 'centos-7' in the store") as caught:
        store.build(guests.load("centos-7"), None, paths.cache() / "log", [])
    assert "labctl image pull centos-7" in caught.value.hint


@pytest.mark.parametrize(("name", "iso", "message"), [
    ("centos-7", "other.iso",
     "'other.iso' is not an installation disc of CentOS 7.9 that labctl knows: its sha256 is 33"),
    ("centos-7", "nowhere.iso", "There is no file 'nowhere.iso'."),
    ("debian-12", "other.iso", "The image of 'debian-12' is not built from an installation disc."),
])
def test_a_disc_of_another_release_is_refused(name: str, iso: str, message: str) -> None:
    have_base("centos-7")
    Path("other.iso").write_text("another\n")
    with pytest.raises(LabError) as caught:
        store.build(guests.load(name), None, paths.cache() / "log", [], Path(iso))
    assert caught.value.message.startswith(message)
    assert not paths.images().exists()


@pytest.mark.parametrize(("said", "reason"), [
    ("==> Fetch\ncurl: (6) Could not resolve host: deb.debian.org\n==> Build heartbeat\nerror: Bad exit\nRPM\n",
     " at the step 'Build heartbeat': error: Bad exit"),
    ("==> Install\nhttps://vault.centos.org/7.9.2009: Could not resolve host: vault.centos.org\nbye\n",
     " at the step 'Install': the mirror 'https://vault.centos.org' could not be reached."),
    ("==> Fetch\ncurl: (6) Could not resolve host: deb.debian.org\n",
     " at the step 'Fetch': curl: (6) Could not resolve host: deb.debian.org"),
    ("==> Pack\ncp: No space left on device\nbye\n", " at the step 'Pack': cp: No space left on device"),
    ("The machine is up.\n==> Install\n", " at the step 'Install': it said nothing"),
    ("sh: nothing\n", ": sh: nothing"),
])
def test_a_recipe_that_fails(said: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def customise(*_: object) -> NoReturn:
        log.parent.mkdir(parents=True)
        log.write_text(said)
        raise RecipeError("The recipe failed.")

    have_base("centos-7")
    log = paths.cache() / "build.log"
    monkeypatch.setattr(builder, "customise", customise)
    with pytest.raises(LabError) as caught:
        store.build(guests.load("centos-7"), None, log, [])
    assert caught.value.message == f"The image of 'centos-7' could not be built{reason}"
    assert str(log) in caught.value.hint
    assert [path.name for path in paths.images().iterdir()] == [".lock"]


def test_an_image_of_another_recipe_is_not_used(image: Path) -> None:
    with pytest.raises(LabError, match="was built by another version of its recipe"):
        store.current(guests.load("debian-12"))
    made = manifest({"disk.qcow2": DISK, "vmlinuz": KERNEL})
    recipe = sha256(IMAGES / "debian-12.sh")
    (image / "manifest.json").write_text(made.model_copy(update={"recipe_sha256": recipe}).model_dump_json())
    assert store.current(guests.load("debian-12")).path == image


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
    assert "labctl checkpoint list" in caught.value.hint
    assert image.exists()
    store.remove("debian-12", [])
    assert not image.exists()
    assert store.images() == []
    with pytest.raises(LabError, match="no image of 'debian-12'"):
        store.remove("debian-12", [])


def test_what_is_about_to_get_a_name_is_not_listed(image: Path) -> None:
    for root, name in ((paths.images(), "debian-12"), (paths.bases(), "centos-7")):
        root.mkdir(exist_ok=True)
        (root / f".{name}.new").symlink_to(image)
        (root / ".rocky-9.new").symlink_to("nowhere")
    assert [found.name for found in store.images()] == ["debian-12"]
    assert bases.bases() == []
