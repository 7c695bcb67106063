"""Why and when a leg has to end before its target: signals and the deadline.

The first SIGTERM, SIGINT or SIGUSR1 asks for a stop at the next cut; a second SIGINT, or the end of the grace time,
stops at once, with the last checkpoint as it is. Handlers are installed in the main thread only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from unbroken import logs

EXIT_STOPPED = 75
EXIT_BY_CALLBACK = 4
BY_CALLBACK = "stopped by a callback"
_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK")


def stopped_code(*, has_checkpoint: bool) -> int:
    """The exit code of a leg that stopped early: 75 promises a valid checkpoint, without one it is 1."""
    return EXIT_STOPPED if has_checkpoint else 1


class StopNow(BaseException):
    """Raised in the training thread when waiting for a cut is over. Not an Exception: no user code may swallow it."""


class StopRequest:
    """Whether the leg has been asked to end. `grace_seconds` is how long a cut may take to come after a signal.

    `interruption` makes what a second SIGINT raises in the training thread. `is_urgent`: the deadline leaves no time to wait.
    """

    def __init__(
        self,
        grace_seconds: float = 30.0,
        deadline_seconds: float | None = None,
        interruption: Callable[[str], BaseException] = StopNow,
    ) -> None:
        self._interruption = interruption
        self.reason: str | None = None
        self.is_urgent = False
        self.grace_seconds = grace_seconds
        self._started = time.monotonic()
        self._asked_at: float | None = None
        self._deadline = None if deadline_seconds is None else self._started + deadline_seconds

    def ask(self, reason: str) -> None:
        """Ask for a stop at the next cut."""
        self.reason = self.reason or reason
        if self._asked_at is None:
            self._asked_at = time.monotonic()

    @property
    def waited_seconds(self) -> float:
        """How long a stop has been asked for, 0 if it has not."""
        return 0.0 if self._asked_at is None else time.monotonic() - self._asked_at

    @property
    def grace_is_over(self) -> bool:
        """Whether a signal has waited for a cut longer than the grace time."""
        return self._asked_at is not None and self.waited_seconds > self.grace_seconds

    def check_deadline(self, seconds_needed: float) -> None:
        """Ask for a stop if the deadline would pass within the seconds that the next rollout and the last save need."""
        if self._deadline is not None and time.monotonic() + seconds_needed >= self._deadline:
            self.is_urgent = True
            self.ask("the deadline is near")

    def remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    @property
    def seconds_left(self) -> float:
        """How long the leg may still take: without a limit while nobody has asked for its end and no deadline is set."""
        limits = [self._deadline - time.monotonic()] if self._deadline is not None else []
        if self.reason is not None:
            limits.append(self.grace_seconds - self.waited_seconds)
        return max(0.0, min(limits, default=float("inf")))

    @contextlib.contextmanager
    def listening(self, give_up: Callable[[], None] | None = None) -> Iterator[None]:
        """Handle signals for a while. `give_up` is called in another thread when even a blocked step outlasts the grace time."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {}
        self._timer: threading.Timer | None = None
        self._give_up = give_up
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None:
                previous[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            # a command that was asked to stop is about to exit with its code: a late Ctrl-C must not change that
            ending = give_up is not None and self.reason is not None
            for number, handler in previous.items():
                signal.signal(number, signal.SIG_IGN if ending else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.reason is not None and number == signal.SIGINT:
            raise self._interruption(f"{name} again")
        first = self._asked_at is None
        self.ask(f"{name} received")
        if first:
            # os.write and not the logger: a handler may interrupt the logger while it holds its lock
            wait = f"stopping at the next cut (within {self.grace_seconds:g} s); Ctrl-C again stops at once"
            text = f"\n[CHECKPOINT] {name} received: {wait}\n"
            with contextlib.suppress(OSError):
                os.write(2, text.encode())
            self._start_timer()

    def _start_timer(self) -> None:
        if self._give_up is not None:
            self._timer = threading.Timer(self.grace_seconds + 1.0, self._give_up)
            self._timer.daemon = True
            self._timer.start()


def leave_process(last_words: Callable[[], str], *, has_checkpoint: bool) -> None:
    """End the process from any thread, when a step of the environment does not return: "resume me", if there is what to resume."""
    logs.checkpoint(last_words())
    leave_at_once(stopped_code(has_checkpoint=has_checkpoint))


def leave_at_once(exit_code: int) -> None:
    """End the process without the exit handlers of libraries, one of which hangs."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)
