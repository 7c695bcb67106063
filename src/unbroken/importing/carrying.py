"""Copy the files of a source into a run, byte for byte and durably; what is there already and equal stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from unbroken.errors import StorageError, UsageError
from unbroken.folder import RunFolder
from unbroken.store.backend import Writer, joined, name_of, parent_of
from unbroken.store.checkpoint_writer import new_digest
from unbroken.store.durable import remove_leftovers, write_durably

ORIGINALS = "imported"
_CHUNK = 4 * 1024 * 1024
_SPARE_BYTES = 100_000_000


def require_space(root: Path, names: list[str], folder: RunFolder) -> None:
    """Raise StorageError where the copies would fill the disk."""
    needed = sum((root / name).stat().st_size for name in names)
    free = folder.backend.free_bytes()
    if needed + _SPARE_BYTES > free:
        raise StorageError(
            f"the copies need {needed / 1e6:,.0f} MB and {folder.path} has {free / 1e6:,.0f} MB free: "
            "free some, choose another --runs-dir, or import one file of the folder"
        )


def carry(root: Path, names: list[str], folder: RunFolder) -> dict[str, str]:
    """Copy files below `imported/`; returns the BLAKE2b-256 of each.

    Raises UsageError for a file that changes while it is read, or of which another content is there from an earlier import.
    """
    for place in sorted({parent_of(joined(ORIGINALS, name)) for name in names}):
        own = {name_of(name) for name in names if parent_of(joined(ORIGINALS, name)) == place}
        remove_leftovers(folder.backend, place, own.__contains__)
    return {name: _carried(root / name, joined(ORIGINALS, name), folder) for name in names}


def _carried(source: Path, place: str, folder: RunFolder) -> str:
    if not folder.backend.exists(place):
        return _copied(source, place, folder)
    digest = _digest(source)
    if digest != _digest(folder.path / place):
        raise UsageError(
            f"{source} is not what an earlier start of this import copied to {folder.path / place}; "
            "import it under another name with --run NAME"
        )
    return digest


def _copied(source: Path, place: str, folder: RunFolder) -> str:
    digest = new_digest()

    def produce(writer: Writer) -> None:
        with source.open("rb") as file:
            before = _state(file)
            for chunk in _chunks(file):
                digest.update(chunk)
                writer.write(chunk)
            if _state(file) != before:
                raise UsageError(
                    f"{source} changes while it is copied: wait until the trainer that writes it has ended"
                )

    write_durably(folder.backend, place, produce)
    return digest.hexdigest()


def _state(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _digest(path: Path) -> str:
    digest = new_digest()
    with path.open("rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
    return digest.hexdigest()
