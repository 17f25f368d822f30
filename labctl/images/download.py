"""Downloads of large files over HTTP that can be resumed; the only import of requests."""

import re
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import requests
from pydantic import ValidationError

from labctl.base import config, files
from labctl.base.errors import LabError
from labctl.base.progress import Transfer
from labctl.base.types import Model
from labctl.plan.guests import Source

Judge: TypeAlias = Callable[[bytes, str], None]
"""Gets a file's first bytes and its name, and raises LabError if it is of the wrong kind."""

_CHUNK = 64 * 1024
_ANOTHER = "'--mirror URL' names another server."
_NO_URL = (requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class Unavailable(LabError):
    """A source does not have the file, and nothing of it was downloaded; another source may have it."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, in seconds, and how often to try after a connection broke."""

    connect: float = 10
    stall: float = 30
    """The longest time without a single byte."""
    tries: int = 5
    pause: float = 2
    """The time between two tries."""


class _Broken(Exception):
    """The download broke off, and can be tried again. The text is the reason, as the end of a sentence."""


class _Note(Model):
    """Describes the whole of a partial file; kept beside it."""

    url: str
    sha256: str
    validator: str | None
    """The server's ETag or Last-Modified, by which it knows whether its file is still the same (RFC 9110, 13.1.5)."""
    size: int | None
    """Bytes of the whole file; None if unknown."""


def fetch(source: Source, part: Path, judge: Judge, transfer: Transfer, patience: Patience) -> None:
    """Download `source` to the file `part`, and verify its digest.

    Resumes what an earlier call for the same URL and digest left there. `judge` gets the file's first 64 KiB before
    anything is written.

    Raises Unavailable; DiskFull; and LabError if labctl is offline, if the connection breaks again and again, if the
    disk has too little room for the rest, and if the file is the wrong one. After a broken connection or an
    interruption `part` is kept, and with it a file that describes it, for the next call.
    """
    config.must_be_online(f"pull '{source.url}'")
    transfer.say(f"Pulling {source.url}")
    for remaining in reversed(range(patience.tries)):
        try:
            _go_on(source, part, judge, transfer, patience)
            break
        except _Broken as broken:
            here = _size(part) if _note_of(source, part) else 0
            if not here:
                raise Unavailable(f"'{source.url}' cannot be had: {broken}.", hint=_ANOTHER) from None
            if not remaining:
                raise LabError(f"'{source.url}' broke off after {_mib(here)}: {broken}.",
                               hint="What has come is kept: the same command goes on from there.") from None
            transfer.say(f"Trying again: {broken}.")
            time.sleep(patience.pause)
        except files.DiskFull:
            _forget(part)  # Otherwise the disk would stay full, also for labs that are up.
            raise
    found = files.sha256(part)
    if found != source.sha256:
        _forget(part)
        raise LabError(f"'{source.url}' is not the file it should be: its sha256 is {found}, not {source.sha256}.",
                       hint=f"Nothing of it is kept. {_ANOTHER}")
    _note_path(part).unlink(missing_ok=True)


def _go_on(source: Source, part: Path, judge: Judge, transfer: Transfer, patience: Patience) -> None:
    note = _note_of(source, part)
    offset = _size(part) if note else 0
    if note and note.size == offset:
        return  # The download was interrupted before its digest was verified.
    # Ranges and sizes refer to the file itself, so it must not be compressed for the transfer.
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    if offset and note and note.validator:
        headers["If-Range"] = note.validator
    try:
        with closing(requests.get(source.url, headers=headers, stream=True,
                                  timeout=(patience.connect, patience.stall))) as response:
            if note and offset and response.status_code != requests.codes.ok:
                if response.status_code == requests.codes.partial and _fits(response, note, offset):
                    transfer.say(f"Going on after the {_mib(offset)} that are here.")
                    files.check_space(part.parent, (note.size or offset) - offset)
                    _write(response.iter_content(_CHUNK), part, offset, note.size, transfer)
                    return
                if response.status_code in (requests.codes.partial, requests.codes.requested_range_not_satisfiable):
                    # The server's file has changed, or its ranges are wrong.
                    _forget(part)
                    _go_on(source, part, judge, transfer, patience)
                    return
            _must_be_whole(response, source, part)
            _begin(response, source, part, judge, transfer)
    except _NO_URL:
        raise LabError(f"'{source.url}' is not a URL that labctl can pull from.",
                       hint="It has to begin with http:// or https://. 'labctl image import' takes a file.") from None
    except requests.TooManyRedirects:
        raise Unavailable(f"'{source.url}' cannot be had: the server redirects again and again.",
                          hint=_ANOTHER) from None
    except requests.RequestException as error:
        raise _Broken(_reason(error, source.url, patience)) from None


def _must_be_whole(response: requests.Response, source: Source, part: Path) -> None:
    if response.status_code == requests.codes.ok:
        return
    answer = f"the server answers {response.status_code} {response.reason or ''}".rstrip()
    if response.status_code >= requests.codes.server_error:
        raise _Broken(answer)
    if _note_of(source, part):
        _forget(part)
    raise Unavailable(f"'{source.url}' cannot be had: {answer}.", hint=_ANOTHER)


def _begin(response: requests.Response, source: Source, part: Path, judge: Judge, transfer: Transfer) -> None:
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    chunks = response.iter_content(_CHUNK)
    head = next(chunks, b"")
    try:
        judge(head, source.url)
    except LabError as error:
        raise LabError(error.message, error.hint or _ANOTHER) from None
    if total and source.size and total != source.size:
        raise LabError(f"'{source.url}' is not the file it should be: it has {total} bytes, not {source.size}.",
                       hint=f"Nothing of it is kept. {_ANOTHER}")
    _forget(part)
    size = total or source.size
    files.check_space(part.parent, size or 0)
    etag = response.headers.get("ETag", "W/")
    # A weak ETag says that two files are equivalent, not that their bytes are the same.
    validator = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
    with files.filling(part.parent, size):
        _note_path(part).write_text(
            _Note(url=source.url, sha256=source.sha256, validator=validator, size=size).model_dump_json())
    _write(chain([head], chunks), part, 0, size, transfer)


def _write(chunks: Iterable[bytes], part: Path, here: int, size: int | None, transfer: Transfer) -> None:
    with files.filling(part.parent, size), part.open("ab") as file:
        transfer.moved(here, size)
        for chunk in chunks:
            file.write(chunk)
            here += len(chunk)
            transfer.moved(here, size)
    if size and here < size:
        raise _Broken("the connection broke")


def _fits(response: requests.Response, note: _Note, offset: int) -> bool:
    """Whether a partial response continues our partial file."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return bool(match and int(match[1]) == offset and match[2] in ("*", str(note.size))
                and note.validator in (None, response.headers.get("ETag"), response.headers.get("Last-Modified")))


def _reason(error: BaseException, url: str, patience: Patience) -> str:
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    server = f"the server '{urlsplit(url).hostname}'"
    if isinstance(error, requests.ConnectTimeout):
        return f"{server} could not be reached in {patience.connect:g} s"
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return f"{server} sent nothing for {patience.stall:g} s"
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return f"{server} has no certificate that is trusted here"
    said = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    if said and isinstance(error, requests.ConnectionError):
        return f"{server} could not be reached ({said[-1]})"
    return "the connection broke"


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_path(part).unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _note_of(source: Source, part: Path) -> _Note | None:
    """The note about a partial file, if that is of this source; else None."""
    try:
        note = _Note.model_validate_json(_note_path(part).read_bytes())
    except (OSError, ValidationError):
        return None
    return note if (note.url, note.sha256) == (source.url, source.sha256) else None


def _note_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
