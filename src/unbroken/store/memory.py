"""A file backend that lives in memory, for tests and for simulated crashes.

Behaves like a local disk that never loses power: what is written is visible at once and `sync` has nothing to do.
"""

import errno
import io
import threading
import time
from types import TracebackType
from typing import BinaryIO, Self

from unbroken.store.backend import Buffer, Entry, checked_path, name_of, parent_of


class MemoryBackend:
    """Files in a dictionary; `capacity` in bytes, beyond which writes fail with ENOSPC. Safe to use from threads."""

    def __init__(self, capacity: int = 1 << 40) -> None:
        self._capacity = capacity
        self._files: dict[str, bytearray] = {}
        self._modified: dict[str, float] = {}
        self._folders: set[str] = {""}
        self._lock = threading.RLock()

    def create(self, path: str) -> "MemoryFile":
        with self._lock:
            self._require_folder(parent_of(checked_path(path)), path)
            if path in self._folders:
                raise IsADirectoryError(errno.EISDIR, "is a folder", path)
            self._files[path] = bytearray()
            self._modified[path] = time.time()
            return MemoryFile(self, self._files[path])

    def replace(self, src: str, dst: str) -> None:
        with self._lock:
            self._require_folder(parent_of(checked_path(dst)), dst)
            if checked_path(src) in self._folders:
                self._move_folder(src, dst)
                return
            self._require_file(src)
            if dst in self._folders:
                raise IsADirectoryError(errno.EISDIR, "is a folder", dst)
            self._move_file(src, dst)

    def sync_folder(self, folder: str) -> None:
        with self._lock:
            self._require_folder(checked_path(folder), folder)

    def remove(self, path: str) -> None:
        with self._lock:
            self._require_file(checked_path(path))
            del self._files[path], self._modified[path]

    def make_folder(self, path: str) -> None:
        with self._lock:
            missing = checked_path(path)
            while missing not in self._folders:
                if missing in self._files:
                    raise FileExistsError(errno.EEXIST, "is a file", missing)
                self._folders.add(missing)
                missing = parent_of(missing)

    def open(self, path: str) -> BinaryIO:
        with self._lock:
            if checked_path(path) in self._folders:
                raise IsADirectoryError(errno.EISDIR, "is a folder", path)
            self._require_file(path)
            return io.BytesIO(bytes(self._files[path]))

    def entries(self, folder: str) -> list[Entry]:
        with self._lock:
            inside = [path for path in self._files if parent_of(path) == folder]
            folders = [path for path in self._folders if path and parent_of(path) == folder]
            files = [Entry(name_of(path), len(self._files[path]), self._modified[path], False) for path in inside]
            checked_path(folder)
            return sorted(files + [Entry(name_of(path), 0, 0.0, True) for path in folders], key=lambda e: e.name)

    def exists(self, path: str) -> bool:
        with self._lock:
            return checked_path(path) in self._files or path in self._folders

    def free_bytes(self) -> int:
        with self._lock:
            return self._capacity - sum(map(len, self._files.values()))

    def append(self, content: bytearray, data: Buffer) -> int:
        """Add `data` to one of this backend's files; used by `MemoryFile`."""
        with self._lock:
            size = memoryview(data).nbytes
            if size > self.free_bytes():
                raise OSError(errno.ENOSPC, "no space left in memory backend")
            content += memoryview(data).cast("B")
            return size

    def _require_file(self, path: str) -> None:
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)

    def _require_folder(self, folder: str, path: str) -> None:
        if folder not in self._folders:
            raise FileNotFoundError(errno.ENOENT, "no such folder", path)

    def _move_file(self, src: str, dst: str) -> None:
        self._files[dst] = self._files.pop(src)
        self._modified[dst] = self._modified.pop(src)

    def _move_folder(self, src: str, dst: str) -> None:
        if dst in self._files or dst in self._folders:
            raise FileExistsError(errno.EEXIST, "exists", dst)
        for path in [path for path in self._files if path.startswith(f"{src}/")]:
            self._move_file(path, dst + path[len(src) :])
        moved = {path for path in self._folders if path == src or path.startswith(f"{src}/")}
        self._folders = (self._folders - moved) | {dst + path[len(src) :] for path in moved}


class MemoryFile:
    """A file of a `MemoryBackend` being written."""

    def __init__(self, backend: MemoryBackend, content: bytearray) -> None:
        self._backend = backend
        self._content = content
        self._closed = False

    def write(self, data: Buffer, /) -> int:
        if self._closed:
            raise ValueError("write to a closed file")
        return self._backend.append(self._content, data)

    def sync(self) -> None:
        if self._closed:
            raise ValueError("sync of a closed file")

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()
