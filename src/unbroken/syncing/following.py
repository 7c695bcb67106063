"""A run is pushed while another process trains it, until its target is reached there too.

The training never notices: nothing of it is locked or replaced, and a remote that is down is tried again until it answers. Only
a run that is not here at all when following begins is brought here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from unbroken.errors import (
    DamagedFile,
    NotFound,
    RemoteError,
    RemoteRefused,
    RunLocked,
    StorageError,
    UnbrokenError,
)
from unbroken.folder import RUN_FILE, RunFolder
from unbroken.locate import names_of, scenario_of
from unbroken.stopping import EXIT_STOPPED
from unbroken.syncing.lines import say, warn
from unbroken.syncing.local import SYNC, look
from unbroken.syncing.syncing import Pair, RemoteAhead, sync

_LONGEST_PAUSE = 600.0
# s that a training which is asked to end too may take for its last checkpoint, as by its own --grace
_LAST_SAVE = 30.0
_SOON = 1.0
_NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")


class StopSwitch:
    """Set by the first SIGINT or SIGTERM while `listening`; a second SIGINT raises KeyboardInterrupt. `patient`: it was SIGTERM."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.patient = False

    @property
    def is_set(self) -> bool:
        """Whether somebody has asked for the end."""
        return self._event.is_set()

    def set(self, *, patient: bool = False) -> None:
        """Ask for the end; with `patient` only after a training that is under way has made its last checkpoint."""
        self.patient = patient
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until somebody asks for the end."""
        self._event.wait(seconds)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals for a while, in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_set and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.set(patient=number == signal.SIGTERM)


def follow(pair: Pair, every: float, stop: StopSwitch) -> int:
    """Push whatever is new every so many seconds, until the target is reached and pushed or `stop` is set.

    Returns 0 if what is here is at the remote, else 75: the same command goes on. After SIGTERM a training has time to end, and
    its last checkpoint is pushed. Raises RemoteAhead if the training ends and the remote is further than it, NotFound if the run's
    folder is removed meanwhile, and what `sync` does for what waiting does not heal.
    """
    return _Follower(pair, every, stop).run()


class _Follower:
    def __init__(self, pair: Pair, every: float, stop: StopSwitch) -> None:
        self._pair = pair
        self._every = every
        self._stop = stop
        self._failures = 0
        self._said = ""
        self._answered = False
        # what was here when the last sync that succeeded began
        self._synced: object = None
        self._was_here = _is_begun(pair.folder)
        self._was_carried = False
        self._ahead: RemoteAhead | None = None

    def run(self) -> int:
        while not self._stop.is_set:
            is_carried_now = is_carried(self._pair.folder)
            is_new = self._round()
            if self._is_over(is_new):
                say(f"Run {self._pair.folder.name} is complete, and all of it is at {self._pair.remote.url}")
                return 0
            if self._ahead is not None and self._has_ended(is_carried_now):
                raise self._ahead
            self._was_carried = self._was_carried or is_carried_now
            self._stop.wait(self._pause())
        if self._stop.patient:
            self._await_last_save()
        self._round()
        return self._left()

    def _round(self) -> bool:
        """Sync if anything is new here; returns whether anything was, or is still to be pushed."""
        self._require_here()
        found = glance(self._pair.folder)
        if found == self._synced and found is not None:
            return False
        if self._tried():
            self._synced = found
        return True

    def _require_here(self) -> None:
        """Raise NotFound if the run's folder has gone: who removed it does not want it back."""
        folder = self._pair.folder
        if self._was_here and not folder.path.is_dir():
            raise NotFound(
                f"run {folder.name} was removed here while it was followed, and nothing is pushed any more; what is at "
                f"{self._pair.remote.url} comes back with 'unbroken sync {folder.name} REMOTE'"
            )
        self._was_here = _is_begun(folder)

    def _tried(self) -> bool:
        ahead, self._ahead = self._ahead, None
        try:
            sync(self._pair, may_pull=not self._was_here)
        except RemoteAhead as error:
            self._ahead = error
            self._answered, self._failures = True, 0
            if str(error) != str(ahead):
                warn(str(error))
            return False
        except (RemoteError, StorageError, DamagedFile, RunLocked, NotFound) as error:
            self._ahead = ahead
            if isinstance(error, RemoteRefused) and not self._answered:
                raise
            self._note(error)
            return False
        except UnbrokenError:
            raise
        except OSError as error:
            self._ahead = ahead
            self._note(error)
            return False
        if self._said:
            say(f"{self._pair.remote.url}: in step again")
        self._failures, self._said, self._answered = 0, "", True
        self._was_here = True
        return True

    def _note(self, error: Exception) -> None:
        """Warn once; what keeps failing is tried less and less often."""
        is_usual = isinstance(error, NotFound | RunLocked)
        self._answered = self._answered or is_usual
        self._failures = 0 if is_usual else self._failures + 1
        text = " ".join(str(error).split())
        if text != self._said and is_usual:
            say(f"{text}; waiting for it")
        elif text != self._said:
            warn(f"{text}; it is tried again, and training goes on")
        self._said = text

    def _is_over(self, is_new: bool) -> bool:
        if is_new or self._synced is None:
            return False
        here = look(self._pair.folder)
        return here is not None and here.complete and not is_carried(self._pair.folder)

    def _has_ended(self, is_carried_now: bool) -> bool:
        """Whether nobody trains here any more: what was is not carried, or the target was reached before following began."""
        if is_carried_now or is_carried(self._pair.folder):
            return False
        here = look(self._pair.folder)
        return self._was_carried or (here is not None and here.complete)

    def _pause(self) -> float:
        if self._failures:
            return float(min(self._every * 2**self._failures, max(self._every, _LONGEST_PAUSE)))
        here = look(self._pair.folder) if self._synced is not None else None
        return min(self._every, _SOON) if here is not None and here.complete else self._every

    def _await_last_save(self) -> None:
        until = time.monotonic() + _LAST_SAVE
        while is_carried(self._pair.folder) and time.monotonic() < until:
            time.sleep(0.05)

    def _left(self) -> int:
        if glance(self._pair.folder) == self._synced and self._synced is not None:
            say(f"Stopped: everything of run {self._pair.folder.name} is at {self._pair.remote.url}")
            return 0
        if self._ahead is not None:
            warn(f"Stopped: {self._ahead}")
            return EXIT_STOPPED
        say(
            f"Stopped: what is new in run {self._pair.folder.name} is not at {self._pair.remote.url}; the same command goes on"
        )
        return EXIT_STOPPED


def _is_begun(folder: RunFolder) -> bool:
    """Whether there is more than what an interrupted pull leaves."""
    return any(entry.name not in (SYNC, folder.lock_path.name) for entry in folder.backend.entries(""))


def glance(folder: RunFolder) -> object:
    """Something that changes whenever there is something new to be pushed; None without a checkpoint."""
    here = look(folder)
    if here is None:
        return None
    names = names_of(folder, scenario_of(folder))
    return here.point, here.record.size, [_state(folder, name) for name in (RUN_FILE, names.best, names.final)]


def _state(folder: RunFolder, name: str) -> tuple[int, int] | None:
    try:
        facts = (folder.path / name).stat()
    except FileNotFoundError:
        return None
    return facts.st_size, facts.st_mtime_ns


def is_carried(folder: RunFolder) -> bool:
    """Whether another process of this machine holds the run's lock, as far as can be told without touching the lock."""
    try:
        facts = json.loads(folder.lock_path.read_text(encoding="utf-8"))
        pid = int(facts["pid"])
        if facts["host"] != socket.gethostname() or pid == os.getpid():
            return False
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return _lives(pid)


def _lives(pid: int) -> bool:
    if sys.platform == "win32":
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)
        if handle:
            ctypes.windll.kernel32.CloseHandle(handle)
        return bool(handle)
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
