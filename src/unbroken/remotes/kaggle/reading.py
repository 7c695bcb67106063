"""What there is in a dataset, over all the versions that matter, and its contents."""

from __future__ import annotations

import contextlib
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path

from unbroken.errors import RemoteError
from unbroken.remotes.kaggle.dataset import DatasetCalls, Unreadable
from unbroken.remotes.kaggle.downloads import Source, receive_part
from unbroken.remotes.kaggle.index import Index, Pack, Place, View, merged
from unbroken.remotes.kaggle.kept import Kept, hashed

# how many versions without an index, made by hand or not to be read, are passed over to find one that has it
_LOOK_BACK = 20
# times that a content with a wrong hash is fetched; the first may have gone on from a left-over part
_FETCHES = 3


class Reading:
    """Reads over open calls; `indexes` remembers those of versions, which never change. Errors as `Session.call`.

    None in `indexes` is a version that could not be read; it is looked at again each time, but not waited for.
    """

    def __init__(self, calls: DatasetCalls, indexes: MutableMapping[int, Index | None]) -> None:
        self.calls = calls
        self._indexes = indexes

    def view(self, newest: int) -> View:
        """What there is at the version that the service calls current, with what it passed over.

        Unreadable if nothing of that version is shown although it is said to be ready.
        """
        if newest == 0:
            # one that is made anew counts from 1 again
            self._indexes.clear()
        gaps: set[int] = set()
        for number in range(newest, max(0, newest - _LOOK_BACK), -1):
            index = self._unless_unreadable(number, newest, gaps)
            if index:
                skipped = self._skipped(number, index, gaps)
                return replace(merged(number, index, skipped), version=newest, gaps=frozenset(gaps))
        return View(newest, gaps=frozenset(gaps))

    def index(self, version: int) -> Index | None:
        """The index of a version; None if it has none, Unreadable if nothing of it is shown."""
        index = self._indexes.get(version)
        if index is None:
            looks = 1 if version in self._indexes else self.calls.session.pace.attempts
            index = self.calls.index(version, looks)
            if index:
                self._indexes[version] = index
        return index

    def _skipped(self, number: int, index: Index, gaps: set[int]) -> dict[int, Index]:
        for gap in index.gaps:
            self._indexes.setdefault(gap, None)
        passed = {*range(index.base + 1, number), *index.gaps}
        found = {version: self._unless_unreadable(version, 0, gaps) for version in sorted(passed)}
        return {version: skipped for version, skipped in found.items() if skipped}

    def _unless_unreadable(self, version: int, newest: int, gaps: set[int]) -> Index | None:
        """The index of a version, or None; what cannot be read is added to the gaps."""
        try:
            return self.index(version)
        except Unreadable:
            if version != newest:
                self._indexes[version] = None
            elif not self.calls.may_be_unreadable():
                raise
            gaps.add(version)
            return None

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
