"""An object store as a remote: S3 and what speaks its language, Google Cloud Storage, Azure.

Credentials, endpoint and region come from the environment alone (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ALLOW_HTTP` for an endpoint without TLS; `GOOGLE_…` and `AZURE_…` likewise).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from unbroken.errors import (
    MissingExtra,
    NotFound,
    RemoteError,
    RemoteRefused,
    RemoteUnreachable,
    UnbrokenError,
    UsageError,
)
from unbroken.remotes.addresses import without_secrets
from unbroken.remotes.contract import TIMEOUT, Item, Put
from unbroken.remotes.interruptible import waited_for
from unbroken.remotes.object_store_errors import SERVICES, Explainer, Service, is_missing_bucket
from unbroken.remotes.transfer import checked_name, is_name, listed_folder, open_source, receive

# holds large uploads until they get their names
_ASIDE = ".unbroken-uploads"
# B in one request; more goes up in parts
_AT_ONCE = 16 << 20
_PART = 8 << 20
_PARTS = 9_000
_UPLOADS_AT_ONCE = 2
# S3 copies no larger object in one request
_COPYABLE = 5 << 30
# B/s below which an upload counts as stalled, as the client does not see its progress
_SLOWEST = 50_000
_CHUNK = 1 << 20
_RETRIES = 3
_ABANDONED = timedelta(days=1)
_DAY = 24 * 3600.0


class ObjectStoreRemote:
    """Objects under a prefix of a bucket; the bucket must exist.

    A name is given only if it is absent, by the store itself. The exception is a file above 5 GiB in S3, where two machines that
    upload the same name in the same moment may both believe that theirs was first; one of the contents is there then, whole.
    What a killed upload left behind is never listed, and removed by a large upload a day later; parts of an upload that never
    ended are for the bucket's own rule on incomplete uploads.
    """

    sends_all = False

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        """Nothing is asked of the network yet. Raises MissingExtra without obstore, UsageError for an address of another form,
        and RemoteRefused where the environment lacks credentials."""
        self.url = without_secrets(url)
        self._address = url
        self._service = _service(url)
        self._timeout = timeout
        self._explainer = Explainer(self.url, self._service, timeout)
        self._obstore = _obstore()
        self._store = self._opened(read_timeout=_seconds(timeout), timeout=_seconds(_DAY))

    def items(self, prefix: str = "") -> list[Item]:
        folder = listed_folder(prefix)
        with self._explained():
            sizes = {meta["path"]: meta["size"] for meta in self._listed(folder) if meta["path"].startswith(prefix)}
            return [Item(name, size) for name, size in sorted(sizes.items()) if self._is_object(name, size)]

    def put(self, files: Mapping[str, Path]) -> Put:
        for name in files:
            _checked(name)
        written: list[str] = []
        present: list[str] = []
        for name, source in files.items():
            (written if self._put(name, source) else present).append(name)
        return Put(tuple(written), tuple(present))

    def fetch(self, name: str, target: Path) -> None:
        receive(target, partial(self._open_at, _checked(name)))

    def _put(self, name: str, source: Path) -> bool:
        with open_source(name, source) as file:
            if self._has(name):
                return False
            size = os.fstat(file.fileno()).st_size
            write = self._write_large if size > _AT_ONCE else self._write_small
            for _ in range(_RETRIES):
                if write(name, file, size):
                    return True
                # refused as taken, which a store also says while another machine's upload is still under way
                if self._has(name):
                    return False
        raise RemoteError(f"{self.url} refuses {name} as taken and does not have it: try again later")

    def _write_small(self, name: str, file: BinaryIO, size: int) -> bool:
        file.seek(0)
        content = file.read()
        with self._explained():
            return self._create(name, content, self._patient(size))

    def _create(self, name: str, content: bytes, store: Any) -> bool:
        try:
            waited_for(lambda: self._obstore.put(store, name, content, mode="create"))
        except self._obstore.exceptions.AlreadyExistsError:
            return False
        return True

    def _write_large(self, name: str, file: BinaryIO, size: int) -> bool:
        """In parts, under another name first: parts cannot be joined on the condition that a name is absent."""
        part = max(_PART, size // _PARTS)
        store = self._patient(part * _UPLOADS_AT_ONCE)
        parts = {"use_multipart": True, "chunk_size": part, "max_concurrency": _UPLOADS_AT_ONCE}
        file.seek(0)
        with self._explained():
            if size > _COPYABLE and self._service.prefix == "AWS":
                waited_for(lambda: self._obstore.put(store, name, file, **parts))
                return True
            aside = f"{_ASIDE}/{secrets.token_hex(8)}"
            waited_for(lambda: self._obstore.put(store, aside, file, **parts))
            return self._move_new(aside, name, self._patient(size))

    def _move_new(self, aside: str, name: str, store: Any) -> bool:
        try:
            waited_for(lambda: self._obstore.copy(store, aside, name, overwrite=False))
        except self._obstore.exceptions.AlreadyExistsError:
            return False
        finally:
            with contextlib.suppress(Exception):
                self._sweep(aside)
        return True

    def _sweep(self, aside: str) -> None:
        """Remove an upload that has its name, and those that killed uploads left long ago."""
        uploads = {meta["path"]: meta["last_modified"] for meta in self._listed(_ASIDE)}
        old = [path for path, when in uploads.items() if uploads[aside] - when > _ABANDONED]
        waited_for(lambda: self._obstore.delete(self._store, [aside, *old]))

    def _open_at(self, name: str, offset: int) -> tuple[int, Iterator[bytes]]:
        with self._explained(missing=name):
            if offset:
                size = self._head(name)["size"]
                if offset >= size:
                    return size, iter(())
            options = {"range": {"offset": offset}} if offset else None
            result = waited_for(lambda: self._obstore.get(self._store, name, options=options))
            self._require_store(result.meta)
            return result.meta["size"], self._chunks(result)

    def _chunks(self, result: Any) -> Iterator[bytes]:
        with self._explained():
            stream = iter(result.stream(min_chunk_size=_CHUNK))
            while (chunk := waited_for(lambda: next(stream, None))) is not None:
                yield chunk

    def _has(self, name: str) -> bool:
        with self._explained():
            try:
                self._head(name)
            except FileNotFoundError:
                return False
            return True

    def _head(self, name: str) -> Any:
        meta = waited_for(lambda: self._obstore.head(self._store, name))
        self._require_store(meta)
        return meta

    def _require_store(self, meta: Any) -> None:
        """A login page or a proxy answers every question with a page, which has no mark of its content as objects have."""
        if meta["e_tag"] is None:
            raise RemoteUnreachable(
                f"{self.url}: what answers there is no object store; is there a login page or a proxy in between?"
            )

    def _listed(self, folder: str) -> Iterator[Any]:
        pages = iter(self._obstore.list(self._store, prefix=folder or None))
        empty = True
        while (metas := waited_for(lambda: next(pages, None))) is not None:
            empty = empty and not metas
            yield from metas
        if empty:
            # a page of something else is read as an empty list; a store may forbid to ask for what it does not have
            with contextlib.suppress(RemoteRefused):
                self._has(f"{_ASIDE}/none-{secrets.token_hex(8)}")

    def _is_object(self, name: str, size: int) -> bool:
        if not is_name(name) or name.startswith(f"{_ASIDE}/"):
            return False
        # consoles mark a folder by an empty object that ends in "/", which the list shows without it
        return size > 0 or self._has(name)

    def _patient(self, size: int) -> Any:
        """A store for sending `size` bytes: its client cannot tell a slow upload from a silent host."""
        return self._opened(timeout=_seconds(self._timeout + size / _SLOWEST))

    def _opened(self, **times: timedelta) -> Any:
        allow = os.environ.get(f"{self._service.prefix}_ALLOW_HTTP", "").lower() in ("1", "true", "yes", "on")
        options = {"connect_timeout": _seconds(self._timeout), "allow_http": allow, **times}
        backoff = {"init_backoff": _seconds(0.1), "max_backoff": _seconds(2), "base": 2}
        retry = {"max_retries": _RETRIES, "retry_timeout": _seconds(self._timeout), "backoff": backoff}
        own = {}
        if self._service.prefix == "AWS" and "AWS_COPY_IF_NOT_EXISTS" not in os.environ:
            own["copy_if_not_exists"] = "multipart"
        with self._explained():
            return self._obstore.store.from_url(self._address, client_options=options, retry_config=retry, **own)

    @contextlib.contextmanager
    def _explained(self, missing: str = "") -> Iterator[None]:
        try:
            yield
        except UnbrokenError:
            raise
        except FileNotFoundError as error:
            if missing and not is_missing_bucket(str(error)):
                raise NotFound(f"{self.url} has no {missing}") from None
            raise self._explainer.explain(error) from None
        except (self._obstore.exceptions.BaseError, OSError, ValueError) as error:
            # not chained: what the client says may hold a signature
            raise self._explainer.explain(error) from None


def _service(url: str) -> Service:
    scheme, _, place = url.partition("://")
    service = SERVICES.get(scheme)
    shown = without_secrets(url)
    if service is None:
        raise UsageError(f"{shown!r} is no object store; there are {', '.join(f'{known}://' for known in SERVICES)}")
    user, at, _ = place.rpartition("@")
    if ":" in user or (at and "@" not in service.form):
        raise UsageError(
            f"{shown!r}: credentials come from the environment ({service.credentials}), not from the address"
        )
    if not re.fullmatch(r"[^/?#]+(/[^/?#]+)*/?", place):
        raise UsageError(f"{shown!r} is not of the form {scheme}://{service.form}")
    return service


def _obstore() -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise MissingExtra("object stores need the package obstore: pip install 'unbroken[s3]'") from error
    return obstore


def _checked(name: str) -> str:
    if checked_name(name).startswith(f"{_ASIDE}/"):
        raise UsageError(f"{name!r} is a name of files being uploaded: take another one")
    return name


def _seconds(value: float) -> timedelta:
    return timedelta(seconds=value)
