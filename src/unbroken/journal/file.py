"""One file of a journal: frames of plain data behind one another, each whole or not there.

Every frame carries a hash over itself and the hash of the frame before it, so what follows a torn or altered place does not
count. Reading runs no code of a file's. One thread writes a file; nobody reads it meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from unbroken.capture.codec import decode, encode
from unbroken.errors import DamagedFile
from unbroken.store.append import AppendFile
from unbroken.store.durable import LocalBackend, make_folder_durably, move_aside

FORMAT_VERSION = 2
ENDING = ".journal"
_MAGIC = b"unbroken-journal\n"
_HASH_BYTES = 16
# bytes of the payload, hash over the hash before and the payload; then, in the payload, bytes of its JSON document
_FRAME = struct.Struct(f"<Q{_HASH_BYTES}s")
_DOCUMENT = struct.Struct("<Q")


@dataclass(frozen=True)
class Head:
    """What a file continues: `id` names the capture it follows, made at environment step `step`; `previous` that of the file
    before it, whose records lead up to that capture; `environment` is a digest of everything that the answers depend on.
    """

    id: str
    previous: str | None
    step: int
    environment: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"{self.step}-{self.id}{ENDING}"


@dataclass(frozen=True)
class Frame:
    """One frame: its content, where it ends in the file, and its hash."""

    content: dict[str, Any]
    end: int
    hash: bytes


@dataclass(frozen=True)
class Scanned:
    """What a file holds. `last` is its last frame with a point, `records` how many records come up to there.

    `is_sealed`: everything up to the capture of the next file is in it. `damage` says what is wrong behind its last good frame.
    """

    path: Path
    head: Head
    last: Frame | None
    records: int
    all_records: int
    is_sealed: bool
    damage: str | None


class JournalWriter:
    """Appends frames to a file; `sync` makes them durable."""

    def __init__(self, path: Path, hash_before: bytes) -> None:
        self._file = AppendFile(path)
        self._hash = hash_before

    @classmethod
    def create(cls, folder: Path, head: Head) -> JournalWriter:
        """A new file with its head, its name durable. One that has the name could not be used: it goes to the quarantine."""
        make_folder_durably(LocalBackend(folder.parent), folder.name)
        path = folder / head.name
        if path.exists():
            move_aside(LocalBackend(folder.parent), f"{folder.name}/{path.name}", "quarantine")
        writer = cls(path, b"")
        try:
            writer._file.write(_MAGIC)
            writer.append({"version": FORMAT_VERSION, **asdict(head)})
            writer.sync()
            LocalBackend(folder).sync_folder("")
        except BaseException:
            writer.close()
            raise
        return writer

    @classmethod
    def reopen(cls, path: Path, last: Frame) -> JournalWriter:
        """Go on behind `last`; what follows it is cut off."""
        os.truncate(path, last.end)
        return cls(path, last.hash)

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self._file.path

    def append(self, content: dict[str, Any]) -> None:
        """Write one frame. Raises OSError; no half of it stays then."""
        encoded = encode(content)
        pieces = (_DOCUMENT.pack(len(encoded.document)), encoded.document, *encoded.block())
        payload = b"".join(pieces)
        found = _hashed(self._hash, payload)
        self._file.write(_FRAME.pack(len(payload), found) + payload)
        self._hash = found

    def sync(self) -> None:
        """Make everything appended durable."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def frames(path: Path) -> Iterator[Frame]:
    """The frames of a file, the head's first, each read when it is asked for. Raises DamagedFile where one is not whole."""
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise DamagedFile(f"{path.name} is no journal")
        size, before = os.fstat(file.fileno()).st_size, b""
        while file.tell() < size:
            frame = _read_frame(path, file, size, before)
            yield frame
            before = frame.hash


def _read_frame(path: Path, file: BinaryIO, size: int, before: bytes) -> Frame:
    start = file.tell()
    header = file.read(_FRAME.size)
    if len(header) < _FRAME.size:
        raise DamagedFile(f"{path.name} ends within a frame, at byte {start}")
    length, expected = _FRAME.unpack(header)
    if length > size - file.tell():
        raise DamagedFile(f"{path.name} ends within the frame at byte {start}")
    payload = file.read(length)
    if _hashed(before, payload) != expected or length < _DOCUMENT.size:
        raise DamagedFile(f"{path.name} is altered at or after byte {start}")
    (document,) = _DOCUMENT.unpack_from(payload)
    block = memoryview(payload)[_DOCUMENT.size :]
    content = decode(bytes(block[:document]), block[document:])
    return Frame(content, file.tell(), expected)


def _hashed(before: bytes, payload: bytes) -> bytes:
    found = hashlib.blake2b(before, digest_size=_HASH_BYTES)
    found.update(payload)
    return found.digest()


def scan(path: Path) -> Scanned:
    """Read a whole file once. Raises DamagedFile if not even its head can be read, OSError if the storage fails."""
    reading = frames(path)
    head = _head(path, next(reading, None))
    last, records, all_records, is_sealed, damage = None, 0, 0, False, None
    try:
        for frame in reading:
            all_records += len(frame.content["records"])
            is_sealed = frame.content["sealed"]
            if frame.content["point"] is not None:
                last, records = frame, all_records
    except DamagedFile as error:
        damage, is_sealed = str(error), False
    return Scanned(path, head, last, records, all_records, is_sealed, damage)


def read_head(path: Path) -> Head:
    """The head of a file. Raises DamagedFile."""
    return _head(path, next(frames(path), None))


def _head(path: Path, frame: Frame | None) -> Head:
    if frame is None:
        raise DamagedFile(f"{path.name} has no head")
    content = dict(frame.content)
    if content.pop("version", None) != FORMAT_VERSION:
        raise DamagedFile(f"{path.name} is of another version of unbroken")
    try:
        return Head(**content)
    except TypeError as error:
        raise DamagedFile(f"{path.name} has a head that is not known: {error}") from error
