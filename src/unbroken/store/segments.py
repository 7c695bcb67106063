"""Immutable files that several checkpoints share: what one save had new, named by every checkpoint that needs it.

A segment is a file in the checkpoint container, in the folder `replay` beside the checkpoints, committed before the checkpoint that
names it. It is never changed. Once no checkpoint names it, it is garbage, which `remove_unnamed` collects.
"""

import contextlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from unbroken.errors import DamagedFile, NotFound
from unbroken.store.backend import FileBackend, joined, name_of, parent_of
from unbroken.store.checkpoint_reader import CheckpointFile
from unbroken.store.checkpoint_writer import CheckpointWriter, write_checkpoint
from unbroken.store.durable import remove_leftovers

FACT = "segments"
PARTIAL = "partial_replay"
"""In the manifest of a fork that began without all of its parent's segments: how many rows it has, of how many."""
_PACK = "exact/replay"


@dataclass(frozen=True)
class Segment:
    """One segment as a checkpoint names it: rows by count from `first` to before `end`, bytes, and hash of the content.

    `inside` is the place of its members when the checkpoint is packed and carries them itself, else empty.
    """

    file: str
    first: int
    end: int
    size: int
    digest: str
    inside: str = ""

    def plain(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return dict(vars(self))


def segments_of(manifest: Mapping[str, Any]) -> list[Segment]:
    """The segments that a checkpoint names, in order of their rows. Raises DamagedFile for an entry of another form."""
    try:
        return [Segment(**entry) for entry in manifest.get(FACT) or []]
    except TypeError as error:
        raise DamagedFile(f"the commit record names its segments in an unknown form: {error}") from error


def folder_for(checkpoint: str) -> str:
    """Where the segments of a checkpoint at this path lie: `replay`, beside `checkpoints/` or beside the file."""
    parent = parent_of(checkpoint)
    return joined(parent_of(parent) if name_of(parent) == "checkpoints" else parent, "replay")


class SegmentReader:
    """The members of one segment, in its own file in `folder` or inside a `packed` checkpoint; used as a context."""

    def __init__(
        self, backend: FileBackend, folder: str, segment: Segment, packed: CheckpointFile | None = None
    ) -> None:
        self._segment = segment
        self._path = joined(folder, segment.file)
        self._packed = packed
        self._own = CheckpointFile(backend, self._path) if packed is None else None

    def __enter__(self) -> Self:
        if self._own is not None:
            try:
                self._own.__enter__()
            except NotFound as error:
                raise DamagedFile(
                    f"it needs {self._path}, which is not there: bring that folder along, or take a file made by "
                    "'unbroken checkpoints pack'; a fork (--checkpoint) with --allow-partial goes on without it"
                ) from error
            self._require_same(self._own)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._own is not None:
            self._own.__exit__(kind, error, trace)

    def _require_same(self, own: CheckpointFile) -> None:
        try:
            if own.digest != self._segment.digest:
                raise DamagedFile(f"{self._path} is not the segment that it names")
        except BaseException:
            own.__exit__(None, None, None)
            raise

    def names(self) -> list[str]:
        """Names of its members."""
        if self._own is not None:
            return self._own.names()
        assert self._packed is not None
        prefix = f"{self._segment.inside}/"
        return [name.removeprefix(prefix) for name in self._packed.names() if name.startswith(prefix)]

    def read(self, member: str) -> bytes:
        """A member's content, checked. Raises NotFound and DamagedFile."""
        if self._own is not None:
            return self._own.read(member)
        assert self._packed is not None
        return self._packed.read(f"{self._segment.inside}/{member}")

    def verify(self) -> None:
        """Read every byte, unless they are part of a packed checkpoint, whose own `verify` reads them."""
        if self._own is not None:
            self._own.verify()


def reader_of(file: CheckpointFile, segment: Segment) -> SegmentReader:
    """Reads a segment that an open checkpoint names."""
    return SegmentReader(file.backend, folder_for(file.path), segment, file if segment.inside else None)


def verify_segments(file: CheckpointFile, verified: set[str]) -> None:
    """Read every byte of the segments that an open checkpoint names; digests in `verified` count as read and are added to.

    Raises DamagedFile.
    """
    try:
        for segment in segments_of(file.manifest):
            with reader_of(file, segment) as reader:
                if segment.digest not in verified:
                    reader.verify()
            verified.add(segment.digest)
    except DamagedFile as error:
        raise DamagedFile(f"checkpoint {file.path} cannot be used: {error}") from error


def usable_segments(file: CheckpointFile) -> list[Segment]:
    """The segments that an open checkpoint names of which every byte is there and right."""
    found = []
    for segment in segments_of(file.manifest):
        with contextlib.suppress(DamagedFile), reader_of(file, segment) as reader:
            reader.verify()
            found.append(segment)
    return found


class SegmentStore:
    """Writes and collects the segments of one prefix. One process writes at a time, as with checkpoints."""

    def __init__(self, backend: FileBackend, prefix: str, folder: str) -> None:
        self.backend = backend
        self.folder = folder
        self._prefix = prefix
        self._pattern = re.compile(re.escape(prefix) + r"_\d+-\d+(_\d+)?\.zip")

    def write(self, first: int, end: int, fill: Callable[[CheckpointWriter], None]) -> Segment:
        """Commit a new segment with what `fill` writes, durably. No file that is there is replaced."""
        path = self._free_path(first, end)

        def complete(writer: CheckpointWriter) -> dict[str, Any]:
            fill(writer)
            return {"kind": "segment", "first": first, "end": end}

        info = write_checkpoint(self.backend, path, complete)
        return Segment(name_of(path), first, end, info.size, info.digest)

    def remove_unnamed(self, named: Collection[str]) -> list[str]:
        """Remove the segments whose names are not in `named`, and what killed writers left; returns the names.

        What the storage refuses to remove is left for the next time.
        """
        gone = []
        for entry in self.backend.entries(self.folder):
            if self._pattern.fullmatch(entry.name) and not entry.is_folder and entry.name not in named:
                try:
                    self.backend.remove(joined(self.folder, entry.name))
                except OSError:
                    continue
                gone.append(entry.name)
        remove_leftovers(self.backend, self.folder, lambda name: self._pattern.fullmatch(name) is not None)
        return gone

    def _free_path(self, first: int, end: int) -> str:
        stem = joined(self.folder, f"{self._prefix}_{first}-{end}")
        numbers = ("", *(f"_{n}" for n in range(1, 10_000)))
        return next(f"{stem}{number}.zip" for number in numbers if not self.backend.exists(f"{stem}{number}.zip"))


def pack(file: CheckpointFile, writer: CheckpointWriter, segments: list[Segment] | None = None) -> dict[str, Any]:
    """Write an open checkpoint with its segments (default: all) inside; returns the facts for the new commit record."""
    for name in file.names():
        writer.write_member(name, file.read(name))
    packed = []
    for number, segment in enumerate(segments_of(file.manifest) if segments is None else segments):
        inside = segment.inside or f"{_PACK}/{number}"
        if not segment.inside:
            with reader_of(file, segment) as reader:
                for name in reader.names():
                    writer.write_member(f"{inside}/{name}", reader.read(name))
        packed.append(Segment(segment.file, segment.first, segment.end, segment.size, segment.digest, inside).plain())
    own = ("format", "version", "members")
    return {**{key: value for key, value in file.manifest.items() if key not in own}, FACT: packed}
