"""labctl.images.bases and labctl.images.download: pulls from mirrors that do what mirrors do."""

import socket
from collections.abc import Callable
from copy import copy
from pathlib import Path

import pytest
from helpers import QUICK, SECOND, Said, digest, stored
from mirror import Mirror, serving

from labctl.base import files, paths
from labctl.base.errors import LabError
from labctl.images import bases
from labctl.plan.guests import Guest

CHUNK = 64 * 1024
HALF = 10 * CHUNK
"""Some of the image, at a boundary of what is read at once."""


def pull(guest: Guest, mirror: str | None = None) -> Said:
    """A pull that works, and what it says."""
    said = Said()
    base = bases.pull(guest, mirror, said, QUICK)
    assert base == bases.find(guest.name)
    assert digest(base.disk.read_bytes()) == base.manifest.sha256 == guest.sources[0].sha256
    assert base.manifest.verified
    assert sorted(stored()) == ["centos-7", f"{base.path.name}/disk.qcow2", f"{base.path.name}/manifest.json"]
    return said


def refused(guest: Guest, mirror: str | None = None) -> LabError:
    """A pull that does not work, and leaves the store as it was."""
    before = stored()
    with pytest.raises(LabError) as caught:
        bases.pull(guest, mirror, Said(), QUICK)
    assert stored() == before
    assert "\n" not in caught.value.message
    return caught.value


def broken_off(guest: Guest, mirror: Mirror) -> Path:
    """The part that is kept of a pull that broke off after HALF; the mirror is well again then."""
    mirror.cut = [HALF, 0, 0]
    with pytest.raises(LabError) as caught:
        bases.pull(guest, None, Said(), QUICK)
    assert f"'{guest.sources[0].url}' broke off after 1 MiB: the connection broke." in caught.value.message
    assert "goes on from there" in caught.value.hint
    part = paths.bases() / ".centos-7.part"
    assert part.read_bytes() == mirror.content[:HALF]
    assert not bases.exists("centos-7")
    mirror.asked.clear()
    mirror.served.clear()
    return part


def test_a_base_is_pulled_once(guest: Guest, mirror: Mirror, image: bytes) -> None:
    said = pull(guest)
    assert said.lines == [f"Pulling {mirror.url}{mirror.path}"]
    assert said.counts[0] == (0, len(image))
    assert said.counts[-1] == (len(image), len(image))
    assert bases.find("centos-7").manifest.origin == f"{mirror.url}{mirror.path}"
    assert pull(guest).lines == ["The base of 'centos-7' is there already."]
    assert mirror.asked == [(mirror.path, None)]


@pytest.mark.usefixtures("store")
def test_a_base_that_was_not_verified_is_replaced(guest: Guest) -> None:
    pull(guest)


def test_a_base_that_is_damaged_is_replaced(guest: Guest) -> None:
    pull(guest)
    disk = bases.find("centos-7").disk
    disk.unlink()
    with pytest.raises(LabError, match=f"The base of 'centos-7' is damaged: '{disk}'") as caught:
        bases.find("centos-7")
    assert "labctl image pull centos-7" in caught.value.hint
    pull(guest)


def test_a_redirect_is_followed(guest: Guest, mirror: Mirror) -> None:
    mirror.redirect = "/elsewhere"
    pull(guest)
    assert mirror.asked == [(mirror.path, None), ("/elsewhere", None)]


def test_a_mirror_without_sizes_and_tags_will_do(guest: Guest, mirror: Mirror, image: bytes) -> None:
    mirror.etag, mirror.length = None, False
    assert pull(guest).counts[-1] == (len(image), None)


def test_another_mirror_has_the_same_below_its_root(guest: Guest, mirror: Mirror, image: bytes) -> None:
    with serving(Mirror(image, path=f"/centos{mirror.path}")) as other:
        pull(guest, f"{other.url}/centos/")
        assert other.asked == [(f"/centos{mirror.path}", None)]
    assert mirror.asked == []


# ---- A transfer that breaks off -----------------------------------------------------------------------------


@pytest.mark.parametrize("etag", ['"one"', None])
def test_a_connection_that_breaks_is_gone_on_with(guest: Guest, mirror: Mirror, image: bytes, etag: str | None) -> None:
    mirror.cut, mirror.etag = [HALF], etag
    said = pull(guest)
    assert said.lines[1:] == ["Trying again: the connection broke.", "Going on after the 1 MiB that are here."]
    assert mirror.served == [HALF, len(image) - HALF]


def test_a_connection_that_stalls_is_gone_on_with(guest: Guest, mirror: Mirror, image: bytes) -> None:
    mirror.stall = [HALF]
    said = pull(guest)
    assert said.lines[1] == "Trying again: the server '127.0.0.1' sent nothing for 0.3 s."
    assert mirror.served[0] == HALF
    assert mirror.served[1] == len(image) - HALF


def test_the_next_pull_transfers_only_the_rest(guest: Guest, mirror: Mirror, image: bytes) -> None:
    broken_off(guest, mirror)
    said = pull(guest)
    assert said.lines[1:] == ["Going on after the 1 MiB that are here."]
    assert said.counts[0] == (HALF, len(image))
    assert mirror.asked == [(mirror.path, f"bytes={HALF}-")]
    assert mirror.served == [len(image) - HALF]


def test_nothing_is_transferred_where_only_the_digest_was_missing(guest: Guest, mirror: Mirror, image: bytes) -> None:
    broken_off(guest, mirror).write_bytes(image)
    pull(guest)
    assert mirror.asked == []


def test_what_is_there_is_kept_while_the_mirror_is_away(guest: Guest, mirror: Mirror) -> None:
    broken_off(guest, mirror)
    mirror.status = 503
    error = refused(guest)
    assert "broke off after 1 MiB: the server answers 503 Service Unavailable." in error.message
    assert SECOND not in [path for path, _ in mirror.asked]
    mirror.status = None
    pull(guest)


@pytest.mark.parametrize("mishap", ["ignores ranges", "wrong range", "416", "another file", "404", "note"])
def test_what_cannot_be_gone_on_with_is_begun_anew(
    guest: Guest, mirror: Mirror, image: bytes, mishap: str,
) -> None:
    if mishap == "another file":
        mirror.content = image[:100] + b"x" + image[101:]
    part = broken_off(guest, mirror)
    match mishap:
        case "ignores ranges":
            mirror.ranges = False
        case "wrong range":
            mirror.wrong_range = True
        case "416":
            part.write_bytes(image + b"more")
        case "another file":
            mirror.content, mirror.etag = image, '"two"'
        case "404":
            mirror.path = SECOND
        case _:
            part.with_name(".centos-7.part.json").write_text("{")
    pull(guest)
    assert mirror.served[-1] == len(image)


def test_a_part_of_another_server_is_not_gone_on_with(guest: Guest, mirror: Mirror, image: bytes) -> None:
    broken_off(guest, mirror)
    with serving(Mirror(image)) as other:
        pull(guest, other.url)
        assert other.served == [len(image)]


def test_two_halves_of_different_files_are_refused(guest: Guest, mirror: Mirror, image: bytes) -> None:
    """Without a tag nobody can tell before the end."""
    mirror.content, mirror.etag = image[:100] + b"x" + image[101:], None
    broken_off(guest, mirror)
    mirror.content = image
    with pytest.raises(LabError, match="its sha256 is"):
        bases.pull(guest, None, Said(), QUICK)
    assert stored() == {}
    pull(guest)


# ---- What cannot be had -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_the_second_source_is_taken_where_the_first_is_gone(guest: Guest, mirror: Mirror) -> None:
    first, mirror.path = mirror.path, SECOND
    said = pull(guest)
    assert said.lines == [
        f"Pulling {mirror.url}{first}",
        f"'{mirror.url}{first}' cannot be had: the server answers 404 Not Found.",
        f"Pulling {mirror.url}{SECOND}",
    ]
    assert bases.find("centos-7").manifest.origin == f"{mirror.url}{SECOND}"


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("settings", "reason"), [
    ({"status": 404}, "the server answers 404 Not Found"),
    ({"status": 416}, "the server answers 416 Requested Range Not Satisfiable"),
    ({"status": 503}, "the server answers 503 Service Unavailable"),
    ({"status": 204}, "the server answers 204 No Content"),
    ({"stall": [0], "path": SECOND}, "the server '127.0.0.1' sent nothing for 0.3 s"),
    ({"cut": [0], "path": SECOND}, "the connection broke"),
    ({"redirect": SECOND, "path": SECOND}, "the server redirects again and again"),
])
def test_a_server_that_has_nothing(guest: Guest, mirror: Mirror, settings: dict[str, object], reason: str) -> None:
    for name, value in settings.items():
        setattr(mirror, name, copy(value))
    error = refused(guest)
    assert error.message == f"'{guest.sources[1].url}' cannot be had: {reason}."
    assert error.hint == "'--mirror URL' names another server."


@pytest.mark.usefixtures("store")
def test_a_server_that_is_not_there(guest: Guest) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        error = refused(guest, url)
    assert error.message == (f"'{url}{SECOND}' cannot be had: the server '127.0.0.1' could not be reached "
                             "(Connection refused).")


@pytest.mark.parametrize("url", ["mirror.example", "ftp://mirror.example", "/srv/mirror", "http://", "http://[::1"])
def test_a_mirror_that_is_no_url(guest: Guest, url: str) -> None:
    error = refused(guest, url)
    assert error.message == f"'{url.rstrip('/')}/7/images/disk-2211.qcow2' is not a URL that labctl can pull from."
    assert "http://" in error.hint


# ---- What is not the file it should be ----------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_a_wrong_digest_is_refused(guest: Guest, mirror: Mirror, image: bytes) -> None:
    mirror.content = image[:-1] + b"x"
    error = refused(guest)
    url = guest.sources[0].url
    assert error.message == (f"'{url}' is not the file it should be: its sha256 is {digest(mirror.content)}, "
                             f"not {digest(image)}.")
    assert "Nothing of it is kept." in error.hint
    assert mirror.asked == [(mirror.path, None)], "the second source is none for a file that may be forged"


@pytest.mark.usefixtures("store")
def test_a_wrong_size_is_refused(guest: Guest, image: bytes) -> None:
    source = guest.sources[0].model_copy(update={"size": len(image) + 1})
    error = refused(guest.model_copy(update={"sources": [source]}))
    assert error.message == (f"'{source.url}' is not the file it should be: it has {len(image)} bytes, "
                             f"not {len(image) + 1}.")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("make", "kind"), [
    (lambda _: b"\n<!DOCTYPE html>\n<html><body>Log in</body></html>", "is an HTML page, not a qcow2 image."),
    (lambda image: image[:50], "is truncated: it is too short for a qcow2 image."),
    (lambda _: b"", "is empty, not a qcow2 image."),
])
def test_a_file_of_the_wrong_kind_is_refused(
    guest: Guest, mirror: Mirror, image: bytes, make: Callable[[bytes], bytes], kind: str,
) -> None:
    mirror.content = make(image)
    error = refused(guest)
    assert error.message == f"'{guest.sources[0].url}' {kind}"
    assert "--mirror URL" in error.hint
    assert len(mirror.asked) == 1


def test_a_login_page_does_not_spoil_what_is_there(guest: Guest, mirror: Mirror, image: bytes) -> None:
    broken_off(guest, mirror)
    mirror.content, mirror.etag = b"<html>Log in</html>", None
    assert "is an HTML page" in refused(guest).message
    mirror.content, mirror.etag = image, '"one"'
    pull(guest)
    assert mirror.served[-1] == len(image) - HALF


# ---- What does not fit --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_a_disk_that_is_too_small_is_told_before_the_transfer(
    guest: Guest, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "free_disk", lambda directory: (1, directory))
    error = refused(guest)
    assert error.message == (f"There is not enough room in '{paths.bases()}': the file needs 2 MiB, and 1 MiB are "
                             "free.")
    assert "labctl image list" in error.hint


def test_a_part_is_kept_where_the_rest_does_not_fit(
    guest: Guest, mirror: Mirror, monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken_off(guest, mirror)
    with monkeypatch.context() as patch:
        patch.setattr(files, "free_disk", lambda directory: (0, directory))
        assert "needs 1 MiB, and 0 MiB are free" in refused(guest).message
    pull(guest)


def test_a_guest_without_sources(guest: Guest, mirror: Mirror) -> None:
    error = refused(guest.model_copy(update={"sources": []}))
    assert error.message == "There is nothing to pull or import for 'centos-7'."
    assert "labctl image build centos-7" in error.hint
    assert mirror.asked == []
