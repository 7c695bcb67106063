"""The rows of a replay buffer as segments in the store: written once, merged when many, read back in order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unbroken.capture.buffers import Pieces
from unbroken.capture.replay_rows import RowCounter, Rows, pack_rows, unpack_rows
from unbroken.errors import CaptureError
from unbroken.store.backend import FileBackend
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter
from unbroken.store.segments import Segment, SegmentReader, SegmentStore, reader_of, segments_of

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

MERGE = 32
"""So many neighbours of like size become one segment: each row is written again once per power of this."""


class ReplaySegments:
    """What of a training's replay buffer lies in segments. `write` and `commit` run in the writing thread, one save at a time."""

    def __init__(self, store: SegmentStore) -> None:
        self.counter = RowCounter()
        self._store = store
        self._named: list[Segment] = []

    def begin(self, model: BaseAlgorithm, segments: Sequence[Segment], count: int | None) -> None:
        """The model was restored from a checkpoint with these segments and rows up to `count`, None if it does not count them.

        What lies inside a packed checkpoint is not for others to name, and is written again.
        """
        if count is None or any(segment.inside for segment in segments):
            self.counter.forget()
            return
        self._named = list(segments)
        self.counter.begin(model, count)

    def write(self, rows: Rows) -> list[Segment]:
        """Write the rows that are new and merge what has become many; returns all that the checkpoint has to name."""
        kept = [segment for segment in self._named if rows.oldest < segment.end <= rows.first]
        if rows.end > rows.first:
            kept.append(self._written(rows.first, rows.end, rows.arrays))
        self._require_whole(kept, rows)
        return self._merged(kept, rows.oldest)

    def _require_whole(self, segments: list[Segment], rows: Rows) -> None:
        """What is missing between segments must never pass for a whole buffer; the next save writes all rows."""
        covered = rows.oldest
        for segment in segments:
            covered = segment.end if segment.first <= covered else -1
        if covered != rows.end:
            self.counter.forget()
            raise CaptureError(f"the segments hold the rows of the replay buffer to {covered} and not to {rows.end}")

    def commit(self, rows: Rows, segments: Sequence[Segment]) -> None:
        """A checkpoint that names these segments is on disk."""
        self._named = list(segments)
        self.counter.committed(rows)

    def _written(self, first: int, end: int, arrays: dict[str, np.ndarray]) -> Segment:
        def fill(writer: CheckpointWriter) -> None:
            for name, pieces in pack_rows(arrays):
                with writer.member(name) as member:
                    for piece in pieces:
                        member.write(piece)

        return self._store.write(first, end, fill)

    def _merged(self, segments: list[Segment], oldest: int) -> list[Segment]:
        """The newest segments as one, when so many of a size have come together; a row is rewritten seldom."""
        while len(segments) >= MERGE:
            start = _run_of_like_size(segments)
            if start is None:
                break
            group = segments[start:]
            first = max(group[0].first, oldest)
            segments = [*segments[:start], self._written(first, group[-1].end, self._joined(group, first))]
        return segments

    def _joined(self, group: list[Segment], first: int) -> dict[str, np.ndarray]:
        pieces = []
        for segment in group:
            with SegmentReader(self._store.backend, self._store.folder, segment) as reader:
                pieces.append((segment.first, unpack_rows(reader.names(), reader.read)))
        return joined_rows(pieces, first)


def stored_rows(backend: FileBackend, path: str) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The rows that a checkpoint keeps in segments, oldest first, one segment in memory at a time. Raises DamagedFile."""
    with CheckpointFile(backend, path) as file:
        for segment in segments_of(file.manifest):
            with reader_of(file, segment) as reader:
                yield segment.first, unpack_rows(reader.names(), reader.read)


def joined_rows(pieces: Pieces, oldest: int) -> dict[str, np.ndarray]:
    """All rows from count `oldest` on as one array per name."""
    kept = [{name: rows[max(0, oldest - first) :] for name, rows in arrays.items()} for first, arrays in pieces]
    return {name: np.concatenate([arrays[name] for arrays in kept]) for name in (kept[0] if kept else ())}


def _tier(segment: Segment) -> int:
    return int(math.log(max(1, segment.end - segment.first), MERGE))


def _run_of_like_size(segments: list[Segment]) -> int | None:
    """Where the newest segments of one tier or below begin, if `MERGE` of them are of that tier; else None."""
    tiers = [_tier(segment) for segment in segments]
    for tier in sorted(set(tiers)):
        start = len(tiers)
        while start and tiers[start - 1] <= tier:
            start -= 1
        if tiers[start:].count(tier) >= MERGE:
            return start
    return None
