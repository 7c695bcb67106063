"""The primitive file operations that the store is built from, as a protocol.

A backend holds files under one root. Paths are relative strings with `/` between the parts; the root itself is `""`.
A backend promises nothing about durability beyond what `WritableFile.sync` and `FileBackend.sync_folder` say;
`durable` combines the operations into writes that survive a crash.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from unbroken.errors import UsageError

Buffer = bytes | bytearray | memoryview


class Writer(Protocol):
    """Anything that bytes can be streamed into."""

    def write(self, data: Buffer, /) -> int:
        """Append all of `data` and return its length in bytes; raises OSError when that is not possible."""
        ...


class WritableFile(Protocol):
    """A new file that is being written from its start; leaving the context closes it without a sync."""

    def write(self, data: Buffer, /) -> int:
        """Append all of `data` and return its length in bytes; raises OSError, then the content is undefined."""
        ...

    def sync(self) -> None:
        """Return once everything written so far is on stable storage. The file's name is not: see `sync_folder`."""
        ...

    def close(self) -> None:
        """Release the file; closing twice is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


@dataclass(frozen=True)
class Entry:
    """One name in a folder; `modified` is in seconds since 1970 and, as any clock may jump, informative only."""

    name: str
    size: int
    modified: float
    is_folder: bool


class FileBackend(Protocol):
    """Primitive operations on files under one root.

    Every method raises OSError for what the storage refuses, with the matching builtin subclass (FileNotFoundError,
    IsADirectoryError, …), and UsageError for a path that leaves the root. Methods may be called from any thread; two
    writers of the same path are the caller's mistake.
    """

    def create(self, path: str) -> WritableFile:
        """Open `path` for writing, empty, replacing what was there. The folder must exist."""
        ...

    def replace(self, src: str, dst: str) -> None:
        """Give `src` the name `dst` in one step: every reader sees the old `dst` or the new one.

        A folder can be moved as well, if nothing has the name `dst`.
        """
        ...

    def sync_folder(self, folder: str) -> None:
        """Return once the names made, moved and removed in `folder` so far are on stable storage."""
        ...

    def remove(self, path: str) -> None:
        """Remove one file; FileNotFoundError if there is none."""
        ...

    def make_folder(self, path: str) -> None:
        """Make the folder and its missing parents; nothing happens if it exists. Not durable: see `durable`."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Open for reading; the result can seek and must be closed by the caller."""
        ...

    def entries(self, folder: str) -> list[Entry]:
        """What `folder` holds, sorted by name; a missing folder holds nothing."""
        ...

    def exists(self, path: str) -> bool:
        """Whether a file or folder has this name."""
        ...

    def free_bytes(self) -> int:
        """Space left for new files, as far as the storage tells."""
        ...


Fill = Callable[[Writer], None]


def checked_path(path: str) -> str:
    """The path, if it stays inside the root; raises UsageError for `..`, absolute paths, backslashes and drives."""
    parts = path.split("/") if path else []
    outside = any(part in ("", ".", "..") for part in parts)
    if outside or "\\" in path or "\0" in path or path[1:2] == ":":
        raise UsageError(f"{path!r} is not a relative path inside the folder: use names separated by '/'")
    return path


def parent_of(path: str) -> str:
    """The folder that holds `path`; `""` for a name at the root."""
    return path.rpartition("/")[0]


def name_of(path: str) -> str:
    """The last part of `path`."""
    return path.rpartition("/")[2]


def joined(folder: str, name: str) -> str:
    """`name` inside `folder`, where `""` is the root."""
    return f"{folder}/{name}" if folder else name
