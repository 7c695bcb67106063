"""Backends around a backend: they fail, kill the process, or record, at a chosen primitive operation.

Operations are named as the methods of `FileBackend` and `WritableFile`: `create`, `write`, `sync`, `close`, `replace`,
`sync_folder`, `remove`, `make_folder`, `open`, `entries`, `exists`.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

from unbroken.store.backend import Buffer, Entry, FileBackend, WritableFile

OPERATIONS = (
    "create",
    "write",
    "sync",
    "close",
    "replace",
    "sync_folder",
    "remove",
    "make_folder",
    "open",
    "entries",
    "exists",
)


class WrappingBackend:
    """Passes everything on to `inner`; subclasses override `before` and `before_write`."""

    def __init__(self, inner: FileBackend) -> None:
        self.inner = inner

    def before(self, operation: str, path: str, target: str = "") -> None:
        """Called before every operation but `write`; `target` is the new name in `replace`."""

    def before_write(self, path: str, data: Buffer, file: WritableFile) -> None:
        """Called before `data` is written to the inner `file`."""

    def create(self, path: str) -> "WrappedFile":
        self.before("create", path)
        return WrappedFile(self, path, self.inner.create(path))

    def replace(self, src: str, dst: str) -> None:
        self.before("replace", src, dst)
        self.inner.replace(src, dst)

    def sync_folder(self, folder: str) -> None:
        self.before("sync_folder", folder)
        self.inner.sync_folder(folder)

    def remove(self, path: str) -> None:
        self.before("remove", path)
        self.inner.remove(path)

    def make_folder(self, path: str) -> None:
        self.before("make_folder", path)
        self.inner.make_folder(path)

    def open(self, path: str) -> BinaryIO:
        self.before("open", path)
        return self.inner.open(path)

    def entries(self, folder: str) -> list[Entry]:
        self.before("entries", folder)
        return self.inner.entries(folder)

    def exists(self, path: str) -> bool:
        self.before("exists", path)
        return self.inner.exists(path)

    def free_bytes(self) -> int:
        return self.inner.free_bytes()


class WrappedFile:
    """A file being written through a `WrappingBackend`."""

    def __init__(self, backend: WrappingBackend, path: str, inner: WritableFile) -> None:
        self._backend = backend
        self._path = path
        self._inner = inner
        self._closed = False

    def write(self, data: Buffer, /) -> int:
        self._backend.before_write(self._path, data, self._inner)
        return self._inner.write(data)

    def sync(self) -> None:
        self._backend.before("sync", self._path)
        self._inner.sync()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                self._backend.before("close", self._path)
            finally:
                self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


class FaultyBackend(WrappingBackend):
    """Raises what `fail(operation, path)` returns, if anything, instead of carrying the operation out.

    `calls` lists every operation with its path, `counts` counts them by name, failed ones included. A failing `write`
    leaves half of its data in the file, as a full disk does.
    """

    def __init__(self, inner: FileBackend, fail: Callable[[str, str], Exception | None]) -> None:
        super().__init__(inner)
        self._fail = fail
        self.calls: list[tuple[str, str]] = []
        self.counts: Counter[str] = Counter()

    def before(self, operation: str, path: str, target: str = "") -> None:
        self._note(operation, path)
        error = self._fail(operation, path)
        if error is not None:
            raise error

    def before_write(self, path: str, data: Buffer, file: WritableFile) -> None:
        self._note("write", path)
        error = self._fail("write", path)
        if error is not None:
            file.write(_half(data))
            raise error

    def _note(self, operation: str, path: str) -> None:
        self.calls.append((operation, path))
        self.counts[operation] += 1


class KillingBackend(WrappingBackend):
    """Kills this process with SIGKILL just before the `nth` operation `at` whose path contains `matching`.

    With `half_written`, a kill at a `write` comes after half of the data. `nth` counts from 1. On Windows the process
    is terminated, which no handler sees either.
    """

    def __init__(
        self, inner: FileBackend, at: str, nth: int = 1, *, half_written: bool = True, matching: str = ""
    ) -> None:
        if at not in OPERATIONS or nth < 1:
            raise ValueError(f"no operation {at!r} number {nth} to be killed at; there are {', '.join(OPERATIONS)}")
        super().__init__(inner)
        self._at = at
        self._left = nth
        self._half_written = half_written
        self._matching = matching

    def before(self, operation: str, path: str, target: str = "") -> None:
        if self._is_the_one(operation, path):
            kill_this_process()

    def before_write(self, path: str, data: Buffer, file: WritableFile) -> None:
        if self._is_the_one("write", path):
            if self._half_written:
                file.write(_half(data))
            kill_this_process()

    def _is_the_one(self, operation: str, path: str) -> bool:
        if operation != self._at or self._matching not in path:
            return False
        self._left -= 1
        return self._left == 0


@dataclass(frozen=True)
class Operation:
    """One recorded operation that changes something; `target` is the new name, `data` what a write appended.

    The operation `acknowledge` marks the point where a caller was told that `path` is safe.
    """

    name: str
    path: str
    target: str = ""
    data: bytes = b""


class RecordingBackend(WrappingBackend):
    """Records every operation that changes something, with the data, before passing it on."""

    def __init__(self, inner: FileBackend) -> None:
        super().__init__(inner)
        self.operations: list[Operation] = []

    def acknowledge(self, name: str) -> None:
        """Note that from here on `name` is promised to survive a power loss."""
        self.operations.append(Operation("acknowledge", name))

    def before(self, operation: str, path: str, target: str = "") -> None:
        if operation not in ("open", "entries", "exists", "close"):
            self.operations.append(Operation(operation, path, target))

    def before_write(self, path: str, data: Buffer, file: WritableFile) -> None:
        self.operations.append(Operation("write", path, data=bytes(data)))


def kill_this_process() -> None:
    """End this process at once, as `kill -9` does: no handler, no buffer flushed, no finally."""
    os.kill(os.getpid(), signal.SIGTERM if os.name == "nt" else signal.SIGKILL)


def _half(data: Buffer) -> bytes:
    return bytes(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
