"""Files that only grow, with known positions: a leg that resumes cuts them where its checkpoint was made.

Writes go straight to the operating system; `sync` makes them durable. Nothing that is cut off is lost: it goes to the archive.
One thread writes; `sync` may be called from another.
"""

from __future__ import annotations

import os
from pathlib import Path

from unbroken.store.durable import LocalBackend, sync_content, write_bytes_durably


class AppendFile:
    """A file opened for appending; its parent folders are made."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> int:
        """Append all bytes; after a failure in the middle the file is cut back, so that no half record stays."""
        before = self.position
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:]) or 0
        except OSError:
            os.ftruncate(self._file.fileno(), before)
            raise
        return len(data)

    @property
    def position(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._file.fileno()).st_size

    def sync(self) -> None:
        """Make what has been written durable."""
        sync_content(self._file.fileno())

    def flush(self) -> None:
        """Nothing to do: writes are not buffered here."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed


def cut_file(path: Path, position: int, archive: Path) -> int:
    """Cut a file at a position and keep the tail in a new file of the archive folder; returns the bytes cut off.

    A file that is shorter than the position, or missing, stays as it is; the result is then negative or zero.
    """
    if not path.exists():
        return -position
    size = path.stat().st_size
    if size <= position:
        return size - position
    with path.open("rb+") as file:
        file.seek(position)
        name = _free_name(archive, f"{path.name}.after-{position}")
        write_bytes_durably(LocalBackend(archive), name, file.read())
        file.truncate(position)
        sync_content(file.fileno())
    return size - position


def _free_name(folder: Path, name: str) -> str:
    number = 1
    while (folder / f"{name}.{number}").exists():
        number += 1
    return f"{name}.{number}"
