"""One background thread with room for one job: saves are written while training goes on.

When the room is taken, `submit` waits: the newest checkpoint on disk is never more than one behind.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

from unbroken import logs

_Jobs = queue.SimpleQueue[Callable[[], None] | None]


class BackgroundWriter:
    """Runs jobs one after another in a daemon thread. Jobs handle their own errors.

    A job that does not is named in the log: no save may end a training. Only what is not an Exception is re-raised by `drain`.
    `submit` and `close` are called by one thread, `drain` by any.
    """

    def __init__(self) -> None:
        self._idle = threading.Event()
        self._idle.set()
        # waking a thread that is there costs the training less than starting one
        self._jobs: _Jobs = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Wait until the job before is done, then hand this one over."""
        self.drain()
        if self._thread is None or not self._thread.is_alive():
            self._jobs = queue.SimpleQueue()
            self._thread = threading.Thread(target=self._work, args=(self._jobs,), name="unbroken-writer", daemon=True)
            self._thread.start()
        self._idle.clear()
        self._jobs.put(job)

    def close(self) -> None:
        """Wait until no job is running and let the thread end; a later `submit` starts another."""
        self.drain()
        if self._thread is not None:
            self._jobs.put(None)
            self._thread = None

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until no job is running; returns whether that came about within `timeout` seconds."""
        finished = self._idle.wait(timeout)
        if finished and self._error is not None:
            error, self._error = self._error, None
            raise error
        return finished

    def _work(self, jobs: _Jobs) -> None:
        while self._run(jobs.get()):
            pass

    def _run(self, job: Callable[[], None] | None) -> bool:
        if job is None:
            return False
        try:
            job()
        except Exception as error:  # noqa: BLE001 - no save may end a training
            with contextlib.suppress(Exception):
                logs.warn_checkpoint(f"a save ended with {type(error).__name__}: {error}; training goes on")
        except BaseException as error:  # noqa: BLE001 - carried to the training thread, which raises it
            self._error = error
        finally:
            # what the job holds, such as the rows of a buffer, goes before the next one
            del job
            self._idle.set()
        return True
