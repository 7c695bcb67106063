"""One process and thread at a time for one fingerprint."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

from unbroken.errors import RunLocked, StoppedEarly, StorageError
from unbroken.store.lock import ExclusiveLock

LOCKS = ".locks"
_TRIES = 100
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 0.5
_OWNER = re.compile("(?<=by )process .+(?=;)")


class _Removable(ExclusiveLock):
    """A lock whose owner removes its file: one on a file without its name locks nothing, so it is tried again until it does."""

    def _open_and_lock(self) -> FileIO:
        for _ in range(_TRIES):
            file = self._open_and_lock_once()
            if self._is_in_place(file):
                return file
            file.close()
        return super()._open_and_lock()


@contextlib.contextmanager
def alone(
    folder: Path, fingerprint: str, waiting: Callable[[str], None], left: threading.Event | None = None
) -> Iterator[str | None]:
    """Keep every other user of the fingerprint out, after waiting for them; `waiting` is told once whom for.

    Raises StoppedEarly where `left` is set while it waits.

    Yields why the folder cannot be locked, else None. The lock is free when its owner dies, by SIGKILL too. Not for use inside
    itself: a computation that asks for its own result would wait for ever.
    """
    path = folder / LOCKS / f"{fingerprint}.lock"
    lock = _Removable(path, run=fingerprint[:8])
    problem = _acquire(lock, waiting, left or threading.Event())
    try:
        yield problem
    finally:
        if problem is None:
            # whoever has opened it meanwhile finds that its name is gone, and opens the next one
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()


def _acquire(lock: ExclusiveLock, waiting: Callable[[str], None], left: threading.Event) -> str | None:
    pause, said = _FIRST_PAUSE_SECONDS, False
    while True:
        try:
            lock.acquire()
            return None
        except StorageError as error:
            return str(error)
        except RunLocked as error:
            if not said:
                owner = _OWNER.search(str(error))
                waiting(owner[0] if owner else "another process")
                said = True
        if left.wait(pause):
            raise StoppedEarly("stopped while another process computes what is asked for; the same command continues")
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
