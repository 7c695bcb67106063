"""The lock that keeps two processes from carrying one run.

The operating system holds it, so it is free again as soon as its owner dies, by kill -9 too. The lock file is never
deleted: a deleted one could be locked twice. On POSIX the lock is a record lock, which a forked worker does not
inherit; nothing else in the owner's process may open and close the lock file, as this would free it.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import threading
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from unbroken.errors import RunLocked, StorageError

_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_BEYOND_CONTENT = 1 << 30

_TRIES = 3
_registry_lock = threading.Lock()
_held: dict[str, tuple[int, str]] = {}


class ExclusiveLock:
    """Holds `path` for this process while the context is open; `run` names it in the message (default: its folder).

    Raises RunLocked at once, without waiting, when another process or another part of this one holds it, and
    StorageError where the file cannot be made or the file system has no locks.
    """

    def __init__(self, path: Path, run: str = "") -> None:
        self._path = Path(path).absolute()
        self._run = run or self._path.parent.name
        self._file: FileIO | None = None

    def acquire(self) -> None:
        """Take the lock; see the class for what is raised."""
        key = os.path.realpath(self._path)
        with _registry_lock:
            pid, owner = _held.get(key, (0, ""))
            if pid == os.getpid():
                raise self._taken(owner)
            self._file = self._open_and_lock()
            _held[key] = (os.getpid(), self._sign(self._file))

    def release(self) -> None:
        """Free the lock; harmless when it is not held. In a forked child the parent's lock stays untouched."""
        with _registry_lock:
            if self._file is None:
                return
            self._file.close()
            self._file = None
            _held.pop(os.path.realpath(self._path), None)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.release()

    def _open_and_lock(self) -> FileIO:
        for _ in range(_TRIES):
            file = self._open_and_lock_once()
            if self._is_in_place(file):
                break
            # a start that was refused has taken its new folder away, and this file with it, since it was opened
            file.close()
        else:
            file = self._open_and_lock_once()
        return file

    def _open_and_lock_once(self) -> FileIO:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = FileIO(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
        except OSError as error:
            raise StorageError(f"cannot make the lock file {self._path}: {error.strerror or error}") from error
        try:
            _lock(file.fileno())
        except OSError as error:
            owner = _owner(file)
            file.close()
            raise self._refusal(error, owner) from error
        return file

    def _is_in_place(self, file: FileIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except OSError:
            return False

    def _refusal(self, error: OSError, owner: str) -> Exception:
        if error.errno in _TAKEN:
            return self._taken(owner)
        return StorageError(f"the file system of {self._path} cannot lock files: {error.strerror or error}")

    def _taken(self, owner: str) -> RunLocked:
        return RunLocked(f"run {self._run} is being trained by {owner}; wait for it or stop it")

    def _sign(self, file: FileIO) -> str:
        facts = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.seek(0)
            file.write(json.dumps(facts).encode("utf-8"))
        return _described(facts)


def _owner(file: FileIO) -> str:
    try:
        file.seek(0)
        facts = json.loads(file.read(4096))
    except (OSError, ValueError):
        return "another process"
    return _described(facts) if isinstance(facts, dict) else "another process"


def _described(facts: dict[str, object]) -> str:
    return f"process {facts.get('pid')} on {facts.get('host')} since {facts.get('since')}"


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _BEYOND_CONTENT, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
