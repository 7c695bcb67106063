"""Contents that this machine keeps of a dataset, so that a new version does not begin with downloading the last one."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from unbroken.remotes.kaggle.index import Blob, Pack
from unbroken.store.durable import LocalBackend, is_leftover

_BLOCK = 1 << 20
# s after which what a killed process was writing is taken for garbage
_ABANDONED = 24 * 3600

_counter = itertools.count()


class Kept:
    """Contents under their hash in `folder`; several processes may use it at once.

    Whatever lies there may vanish or be damaged: it is compared with its hash before its first use, and costs a download then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sure: set[str] = set()

    def path(self, blob: Blob) -> Path:
        """Where the content lies or would lie."""
        return self._folder / blob.sha256

    def has(self, blob: Blob) -> bool:
        """Whether the content is there, whole; what is there and damaged is removed."""
        path = self.path(blob)
        if not path.is_file():
            return False
        if blob.sha256 not in self._sure and hashed(path) != blob:
            path.unlink(missing_ok=True)
            return False
        self._sure.add(blob.sha256)
        return True

    def take(self, file: BinaryIO) -> Blob:
        """Copy the rest of a file as it is now."""
        return self._take(iter(lambda: file.read(_BLOCK), b""))

    def take_pack(self, pack: Pack, file: Path) -> bool:
        """Take over what is in a pack; False if anything in it is not what it should be."""
        with file.open("rb") as packed:
            for blob in pack.blobs:
                found = self._take(_next(packed, blob.size))
                if found != blob:
                    self.path(found).unlink(missing_ok=True)
                    return False
        return True

    def copy(self, blob: Blob, file: Path) -> None:
        """Keep what a file of somebody else's should hold, if there is room. Not as a link: its owner may write to it."""
        if self.path(blob).exists():
            return
        with contextlib.suppress(OSError), file.open("rb") as content:
            found = self.take(content)
            if found != blob:
                self.path(found).unlink()

    def sweep(self) -> None:
        """Remove what killed processes were writing."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if is_leftover(path.name) and time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()

    def _take(self, blocks: Iterable[bytes]) -> Blob:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".taken.{os.getpid()}-{next(_counter)}.tmp"
        digest, size = hashlib.sha256(), 0
        try:
            with temporary.open("wb") as file:
                for block in blocks:
                    digest.update(block)
                    size += file.write(block)
            LocalBackend(self._folder).replace(temporary.name, digest.hexdigest())
        finally:
            temporary.unlink(missing_ok=True)
        self._sure.add(digest.hexdigest())
        return Blob(digest.hexdigest(), size)


def hashed(path: Path) -> Blob:
    """What a file holds."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return Blob(digest.hexdigest(), file.tell())


def _next(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        size -= len(block)
        yield block
