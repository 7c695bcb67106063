"""The files of a journal that follow one another: each begins at a capture, and the first one's is a committed checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from unbroken import logs
from unbroken.errors import DamagedFile
from unbroken.journal.file import ENDING, Head, JournalWriter, Scanned, frames, read_head, scan
from unbroken.journal.records import Record, require_rebuildable, size_of

# beyond this the records of a rollout are handed to the operating system between two points
_MOST_PENDING_BYTES = 64_000_000


class Segment:
    """Records since one capture, and their file once there is a point to write.

    `is_committed`: the capture is a checkpoint; `reaches` is the step of the last point.
    """

    def __init__(self, folder: Path, head: Head, *, is_committed: bool = False) -> None:
        self.head = head
        self.is_committed = is_committed
        self.reaches: int | None = None
        self._folder = folder
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._writer: JournalWriter | None = None
        self._is_sealed = False

    @classmethod
    def resumed(cls, found: Scanned, *, is_last: bool) -> Segment:
        """One of an earlier leg. What the last one holds behind its last point is cut off."""
        segment = cls(found.path.parent, found.head, is_committed=True)
        segment._is_sealed = not is_last
        if is_last and found.last is not None:
            segment._writer = JournalWriter.reopen(found.path, found.last)
            segment.reaches = int(found.last.content["point"]["step"])
        return segment

    def add(self, record: Record) -> None:
        """Note a call. Raises CaptureError or OSError where many of them have to be written."""
        self._pending.append(record)
        self._pending_bytes += size_of(record["result"]) + size_of(record["infos"])
        if self._pending_bytes > _MOST_PENDING_BYTES:
            self._write(None)

    def seal(self) -> None:
        """Make everything up to the next segment durable. Raises CaptureError or OSError."""
        if not self._is_sealed:
            self._write(None, is_sealed=True)
            self._is_sealed = True

    def write_point(self, point: dict[str, Any]) -> None:
        """Make everything up to now durable, with the state of the environments. Raises CaptureError or OSError."""
        self._write(point)
        self.reaches = int(point["step"])

    def close(self) -> None:
        """Let go of the file and of what is not written. Whatever the storage says now, what was promised has been synced."""
        self._pending = []
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()

    def _write(self, point: dict[str, Any] | None, *, is_sealed: bool = False) -> None:
        for record in self._pending:
            require_rebuildable(record)
        if self._writer is None:
            self._writer = JournalWriter.create(self._folder, self.head)
        self._writer.append({"records": self._pending, "point": point, "sealed": is_sealed})
        self._pending, self._pending_bytes = [], 0
        if point is not None or is_sealed:
            self._writer.sync()


def find_chain(folder: Path, capture_id: str) -> list[Scanned]:
    """The files that continue a checkpoint, the last one with a point; empty if there is none. Damage is said.

    Raises OSError if the storage cannot deliver them now.
    """
    found = _scanned(folder)
    first = next((one for one in found if one.head.id == capture_id), None)
    chain = [] if first is None else [first]
    while chain and chain[-1].is_sealed:
        following = next((one for one in found if one.head.previous == chain[-1].head.id), None)
        if following is None:
            break
        chain.append(following)
    for one in chain:
        if one.damage is not None:
            logs.warn_checkpoint(f"the journal's tail is cut to its last whole point: {one.damage}")
    while chain and chain[-1].last is None:
        chain.pop()
    return chain


def _scanned(folder: Path) -> list[Scanned]:
    found = []
    for path in sorted(folder.glob(f"*{ENDING}")) if folder.is_dir() else []:
        try:
            found.append(scan(path))
        except DamagedFile as error:
            logs.warn_checkpoint(f"the journal {path.name} cannot be used: {error}")
    return found


def records_of(chain: list[Scanned]) -> Generator[Record, None, None]:
    """The records up to the chain's last point, read as they are asked for. Raises DamagedFile or OSError."""
    for one in chain:
        end = one.last.end if one is chain[-1] and one.last is not None else None
        for number, frame in enumerate(frames(one.path)):
            # the first is the head
            if number > 0:
                yield from frame.content["records"]
            if frame.end == end:
                break


def remove_others(folder: Path, kept: list[Segment]) -> None:
    """Remove the files of segments that no checkpoint needs any more."""
    names = {segment.head.name for segment in kept}
    for path in folder.glob(f"*{ENDING}") if folder.is_dir() else []:
        if path.name not in names:
            with contextlib.suppress(OSError):
                path.unlink()


def remove_followers(folder: Path, capture_id: str) -> None:
    """Remove the files behind the one with this capture_id, whose records begin where it does not lead. Raises OSError."""
    for path in folder.glob(f"*{ENDING}"):
        with contextlib.suppress(DamagedFile):
            if read_head(path).previous == capture_id:
                path.unlink()


def continued(head: Head, capture_id: str, step: int, *, follows: bool) -> Head:
    """The head of a segment that begins at another capture; with `follows`, the records before lead up to it."""
    return replace(head, id=capture_id, step=step, previous=head.id if follows else None)
