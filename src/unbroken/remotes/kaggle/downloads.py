"""Files from a dataset: in parts, from where they broke off, and out of whatever the service wraps them in.

A file may come whole although a part of it was asked for, in a zip of its own, or not at all but as an error page with status
200, which the client would save under the file's name. What arrives here has the right length; its hash is the caller's to check.
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from unbroken.errors import RemoteError
from unbroken.remotes.kaggle.credentials import sdk
from unbroken.remotes.kaggle.session import Answered, NotUnderstood, Session

T = TypeVar("T")

_BLOCK = 1 << 18
_SLACK = 1 << 20
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Source:
    """A file of one version of a dataset; `size` in bytes."""

    owner: str
    slug: str
    version: int
    name: str
    size: int = 0


class _NotAPart(Exception):
    """What came is neither the part nor the whole file."""


def read_small(session: Session, source: Source, limit: int, parse: Callable[[bytes], T]) -> T:
    """What `parse` makes of the whole file; it is asked for again where that is ValueError.

    NotUnderstood if it stays so, or if the file is longer than `limit` bytes; Answered with status 404 if there is none.
    """

    def read(client: Any) -> T:
        with contextlib.closing(_response(client, source)) as response:
            content = bytearray()
            for block in response.iter_content(_BLOCK):
                content += block
                if len(content) > limit:
                    raise ValueError("too long")
            return parse(_unwrapped(bytes(content), limit))

    return session.call(read)


def receive_part(session: Session, source: Source, first: int, part: Path, size: int) -> None:
    """Add to `part` until it holds the `size` bytes of the file from `first` on; what it has already is taken as right.

    It stays when the transfer breaks off. Tries are counted anew whenever something has arrived. Errors as `Session.call`.
    """
    failures = 0
    while (have := _size_of(part)) != size:
        if have > size:
            part.unlink(missing_ok=True)
            continue
        failure = _received(session, source, first, part, size)
        grown = _size_of(part) > have
        if grown and not failure:
            continue
        failures = 1 if grown else failures + 1
        if failures >= session.pace.attempts:
            raise failure or _something_else(session, source)
        session.pause(failures)


def _received(session: Session, source: Source, first: int, part: Path, size: int) -> RemoteError | None:
    """One try; the error if it broke off but may go on."""
    import requests

    have = _size_of(part)
    try:
        with session.asking_for(first + have, first + size - 1):
            response = session.call(lambda client: _response(client, source))
        with contextlib.closing(response):
            _append(part, _part_of(response, source, first + have), size - have)
        return None
    except _NotAPart:
        return _received_wrapped(session, source, first, part, size)
    except requests.RequestException as error:
        return _broken(session, error)
    except Answered as error:
        if error.status == 404:
            # the index says that it is there
            return error
        # no such part: the file that is sent is another one than the one that is listed
        if error.status != 416:
            raise
        return _received_wrapped(session, source, first, part, size)


def _received_wrapped(session: Session, source: Source, first: int, part: Path, size: int) -> RemoteError | None:
    """As `_received`, from the file in a zip of its own; that comes whole each time."""
    import requests

    wrapped = part.with_name(part.name + ".zip")
    have = _size_of(part)
    try:
        with contextlib.closing(session.call(lambda client: _response(client, source))) as response:
            _save(response, wrapped, source.size + _SLACK)
        with zipfile.ZipFile(wrapped) as archive, _only_member(archive, source.size) as member:
            _append(part, _skipping(iter(lambda: member.read(_BLOCK), b""), first + have), size - have)
        return None
    except requests.RequestException as error:
        return _broken(session, error)
    except (*_BAD_ZIP, _NotAPart):
        return _something_else(session, source)
    finally:
        wrapped.unlink(missing_ok=True)


def _response(client: Any, source: Source) -> Any:
    request = sdk("datasets.types.dataset_api_service").ApiDownloadDatasetRequest()
    request.owner_slug = source.owner
    request.dataset_slug = source.slug
    request.dataset_version_number = source.version
    request.file_name = source.name
    request.raw = True
    return client.datasets.dataset_api_client.download_dataset(request)


def _part_of(response: Any, source: Source, first: int) -> Iterator[bytes]:
    """The bytes of the file from `first` on, if the response has them."""
    if response.status_code == 206:
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != first or match[3] not in ("*", str(source.size)):
            raise _NotAPart
        return iter(response.iter_content(_BLOCK))
    if response.headers.get("Content-Length") != str(source.size):
        raise _NotAPart
    return _skipping(response.iter_content(_BLOCK), first)


def _skipping(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    for block in blocks:
        if count < len(block):
            yield block[count:]
        count = max(0, count - len(block))


def _append(part: Path, blocks: Iterator[bytes], size: int) -> None:
    with part.open("ab") as file:
        for block in blocks:
            file.write(block[:size])
            size -= len(block)
            if size <= 0:
                return


def _save(response: Any, path: Path, limit: int) -> None:
    with path.open("wb") as file:
        for block in response.iter_content(_BLOCK):
            limit -= len(block)
            if limit < 0:
                raise _NotAPart
            file.write(block)


def _only_member(archive: zipfile.ZipFile, size: int) -> BinaryIO:
    members = archive.infolist()
    if len(members) != 1 or members[0].file_size != size:
        raise _NotAPart
    return archive.open(members[0])  # type: ignore[return-value]


def _unwrapped(content: bytes, limit: int) -> bytes:
    """The content, or the only file in it if it is a zip."""
    if not content.startswith(b"PK\x03\x04"):
        return content
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            (member,) = archive.infolist()
            return archive.open(member).read(limit)
    except _BAD_ZIP as error:
        raise ValueError("a damaged zip") from error


def _something_else(session: Session, source: Source) -> NotUnderstood:
    what = f"{session.place}: Kaggle sends something else than the file {source.name}"
    return NotUnderstood(f"{what} (an error page?): run the same command again later")


def _broken(session: Session, error: Exception) -> RemoteError:
    """The error of a connection that broke off; raises what cannot get better by going on."""
    failure = session.failure(error)
    if isinstance(failure, Answered) and failure.status == 0:
        return failure
    raise failure from None


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
