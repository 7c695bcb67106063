"""Files on their way to Kaggle's storage, from where they broke off if they did.

The API gives a token and an address; the bytes go to that address in one PUT. When it breaks off, an empty PUT asks how many
bytes have arrived (status 308 with `Range`), and another one sends the rest.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import secrets
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from unbroken.errors import RemoteError
from unbroken.remotes.kaggle.credentials import sdk
from unbroken.remotes.kaggle.index import Blob
from unbroken.remotes.kaggle.session import Answered, Session
from unbroken.store.durable import LocalBackend

# s after which an upload that was begun can no longer be gone on with; the storage keeps it for a week
_EXPIRY = 6 * 24 * 3600
_BLOCK = 1 << 18
_GONE = {404, 410}
_FILE = "uploads.json"


@dataclass(frozen=True)
class Upload:
    """An upload that has begun: what a dataset version calls it, and where its bytes go."""

    token: str
    address: str


class OpenUploads:
    """The uploads of this machine that have begun and belong to no version yet, kept in `folder` for the next process.

    Their addresses let anybody write the bytes of that upload while it is open, and nothing else; the folder is made for its
    owner's eyes only. A file that is lost or damaged costs a transfer.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> Upload | None:
        """The upload of what has this key, if it can still be gone on with."""
        with contextlib.suppress(KeyError, TypeError):
            entry = self.entries()[key]
            if 0 <= time.time() - entry["begun"] < _EXPIRY:
                return Upload(str(entry["token"]), str(entry["address"]))
        return None

    def remember(self, key: str, upload: Upload) -> None:
        """Keep it until it is forgotten."""
        entry = {"begun": time.time(), "token": upload.token, "address": upload.address}
        self.keep({**self.entries(), key: entry})

    def forget(self, key: str) -> None:
        """Do not go on with it."""
        self.keep({other: entry for other, entry in self.entries().items() if other != key})

    def entries(self) -> dict[str, Any]:
        """All of them, for `keep`."""
        try:
            content = json.loads((self._folder / _FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def keep(self, entries: dict[str, Any]) -> None:
        """Keep these and no others; none before a version takes them, because it uses them up."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = self._folder / f".{_FILE}.{os.getpid()}-{secrets.randbelow(10**12)}.tmp"
            temporary.write_text(json.dumps(entries, indent=1), encoding="utf-8")
            # not synced: what a power loss takes costs a transfer
            LocalBackend(self._folder).replace(temporary.name, _FILE)


@dataclass(frozen=True)
class Content:
    """What to send under a name: these files or bytes one after the other, which hold this. One `key` means one content."""

    name: str
    key: str
    files: Sequence[tuple[Path | bytes, Blob]]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(blob.size for _, blob in self.files)


def uploaded(session: Session, opened: OpenUploads, content: Content) -> str:
    """The token of the content, once all of it has arrived; errors as `Session.call`, and if the files hold something else."""
    try:
        return _uploaded(session, opened, content)
    except _Changed:
        opened.forget(content.key)
        what = f"{session.place}: a file in the workspace changed while it was sent to Kaggle"
        raise RemoteError(f"{what}: run the same command again") from None


def _uploaded(session: Session, opened: OpenUploads, content: Content) -> str:
    known = opened.get(content.key)
    if known:
        with contextlib.suppress(_Gone):
            return _Sending(session, content, known, None).run()
    upload = session.call(lambda client: _begun(client, content))
    opened.remember(content.key, upload)
    try:
        return _Sending(session, content, upload, 0).run()
    except _Gone:
        raise RemoteError(f"{session.place}: the storage does not know an upload that has just begun") from None


class _Gone(Exception):
    """The storage does not know the upload any more."""


class _Changed(Exception):
    """A file does not hold what it should."""


class _Sending:
    """One upload; `position` is how many bytes have arrived, None where only the storage knows."""

    def __init__(self, session: Session, content: Content, upload: Upload, position: int | None) -> None:
        self._session = session
        self._content = content
        self._upload = upload
        self._position = position
        self._most = 0
        self._failures = 0

    def run(self) -> str:
        """The token; the tries are counted anew whenever more has arrived than ever."""
        while True:
            asked = self._position is None
            answer, failure = self._step()
            if answer is not None and answer.status_code in (200, 201):
                return self._upload.token
            if answer is not None and answer.status_code in _GONE:
                raise _Gone
            self._position = self._arrived(answer)
            if asked and self._position is not None:
                continue
            self._failures += 1
            if self._failures >= self._session.pace.attempts:
                raise failure or self._session.refusal(answer)
            self._session.pause(self._failures, answer)

    def _step(self) -> tuple[Any, RemoteError | None]:
        """Ask or send; the answer or None, and the error to raise if it never gets better."""
        import requests

        try:
            answer = self._ask() if self._position is None else self._send(self._position)
        except requests.RequestException as error:
            failure = self._session.failure(error)
            if isinstance(failure, Answered) and failure.status == 0:
                return None, failure
            raise failure from None
        if 400 <= answer.status_code < 500 and answer.status_code not in {429, *_GONE}:
            raise self._session.refusal(answer)
        return answer, None

    def _arrived(self, answer: Any) -> int | None:
        """Where to go on, None where the answer does not say; more than ever before starts the count of tries anew."""
        arrived = _said_to_have_arrived(answer) if answer is not None and answer.status_code == 308 else None
        if arrived is None or arrived >= self._content.size:
            return None
        if arrived > self._most:
            self._most, self._failures = arrived, 0
        return arrived

    def _ask(self) -> Any:
        return self._put(None, {"Content-Range": f"bytes */{self._content.size}"})

    def _send(self, position: int) -> Any:
        size = self._content.size
        ranged = {"Content-Range": f"bytes {position}-{size - 1}/{size}"} if position else {}
        with contextlib.closing(_read(self._content.files, position)) as blocks:
            return self._put(_Body(blocks, size - position), ranged)

    def _put(self, body: Any, headers: dict[str, str]) -> Any:
        put = functools.partial(self._session.plain.put, self._upload.address, timeout=self._session.timeout)
        # 308 means "not all of it" here, not a redirect
        return put(data=body, headers=headers, allow_redirects=False)


class _Body:
    """Blocks of a known length altogether, as requests wants to have them."""

    def __init__(self, blocks: Iterator[bytes], size: int) -> None:
        self._blocks = blocks
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks


def _read(files: Sequence[tuple[Path | bytes, Blob]], position: int) -> Generator[bytes]:
    """The bytes of the files one after the other, from a position on; _Changed before the last ones of a file that is not right."""
    for source, blob in files:
        if position >= blob.size:
            position -= blob.size
            continue
        with io.BytesIO(source) if isinstance(source, bytes) else _opened(source) as file:
            yield from _checked(file, blob, position)
        position = 0


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError:
        # requests would take it for a trouble of the connection
        raise _Changed from None


def _checked(file: BinaryIO, blob: Blob, position: int) -> Iterator[bytes]:
    digest, done = hashlib.sha256(), 0
    while done < blob.size:
        block = file.read(min(_BLOCK, blob.size - done))
        digest.update(block)
        done += len(block)
        if not block or (done == blob.size and digest.hexdigest() != blob.sha256):
            raise _Changed
        if done > position:
            yield block[max(0, len(block) - (done - position)) :]


def _begun(client: Any, content: Content) -> Upload:
    types = sdk("blobs.types.blob_api_service")
    request = types.ApiStartBlobUploadRequest()
    request.type = types.ApiBlobType.DATASET
    request.name = content.name
    request.content_length = content.size
    request.last_modified_epoch_seconds = int(time.time())
    response = client.blobs.blob_api_client.start_blob_upload(request)
    if not response.token or not response.create_url:
        raise ValueError("no token or address")
    return Upload(response.token, response.create_url)


def _said_to_have_arrived(answer: Any) -> int | None:
    """Bytes that are there; None where the answer does not say."""
    said = answer.headers.get("Range")
    if said is None:
        return 0
    match = re.fullmatch(r"(?:bytes=)?0-(\d+)", said.strip())
    return int(match[1]) + 1 if match else None
