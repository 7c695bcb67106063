"""What there is in a dataset, over all the versions that matter, and its contents."""

from __future__ import annotations

import contextlib
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path

from unbroken.errors import RemoteError
from unbroken.remotes.kaggle.dataset import DatasetCalls
from unbroken.remotes.kaggle.downloads import Source, receive_part
from unbroken.remotes.kaggle.index import Index, Pack, Place, View, merged
from unbroken.remotes.kaggle.kept import Kept, hashed

# how many versions without an index, made by hand or not yet ready, are passed over to find one that has it
_LOOK_BACK = 20
# times that a content with a wrong hash is fetched; the first may have gone on from a left-over part
_FETCHES = 3


class Reading:
    """Reads over open calls; `indexes` remembers those of versions, which never change. Errors as `Session.call`."""

    def __init__(self, calls: DatasetCalls, indexes: MutableMapping[int, Index]) -> None:
        self.calls = calls
        self._indexes = indexes

    def view(self, newest: int) -> View:
        """What there is at a version, with what it passed over."""
        numbers = range(newest, max(0, newest - _LOOK_BACK), -1)
        for number in numbers:
            index = self.index(number)
            if index:
                between = {passed: self.index(passed) for passed in range(index.base + 1, number)}
                skipped = {passed: found for passed, found in between.items() if found}
                return replace(merged(number, index, skipped), version=newest)
        return View(newest)

    def index(self, version: int) -> Index | None:
        """The index of a version; None if the version cannot be read or has none."""
        if version not in self._indexes:
            index = self.calls.index(version)
            if index is None:
                return None
            self._indexes[version] = index
        return self._indexes[version]

    def receive(self, place: Place, part: Path) -> None:
        """Make `part` hold the content, going on from what it has; RemoteError if it is not what the index says."""
        if place.pack is None:
            part.write_bytes(b"")
            return
        source = self._source(place.version, place.pack)
        offset = next(offset for blob, offset in place.pack.offsets() if blob == place.blob)
        for _ in range(_FETCHES):
            receive_part(self.calls.session, source, offset, part, place.blob.size)
            # another process may be receiving the same object, and be done with the part
            with contextlib.suppress(FileNotFoundError):
                if hashed(part) == place.blob:
                    return
                part.unlink()
        raise self._damaged(source)

    def receive_pack(self, version: int, pack: Pack, kept: Kept, workspace: Path) -> None:
        """Keep all contents of a pack, going on from what came of it before."""
        source = self._source(version, pack)
        part = workspace / f"{pack.name}.part"
        for _ in range(_FETCHES):
            receive_part(self.calls.session, source, 0, part, pack.size)
            with contextlib.suppress(FileNotFoundError):
                complete = kept.take_pack(pack, part)
                part.unlink()
                if complete:
                    return
        raise self._damaged(source)

    def _source(self, version: int, pack: Pack) -> Source:
        return Source(self.calls.owner, self.calls.slug, version, pack.name, pack.size)

    def _damaged(self, source: Source) -> RemoteError:
        what = f"{self.calls.session.place}: {source.name} of version {source.version} is damaged there"
        return RemoteError(f"{what}: its content does not have the hash in the index")
