"""How far a training is, for people: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from unbroken import logs

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_UPDATES = 0.2


class Progress:
    """Counts steps towards a target."""

    def __init__(self, target: int, start: int) -> None:
        self.target = target
        self._start = start
        self._started = time.monotonic()
        self._last_line = self._started
        self._last_update = 0.0
        self._reward = ""
        self._bar: Any = None
        self._task: Any = None

    def logged(self, values: Mapping[str, Any]) -> None:
        """Remember the newest mean reward that was logged."""
        mean = values.get("rollout/ep_rew_mean")
        if mean is not None:
            self._reward = f", mean reward {float(mean):.1f}"

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show a bar while training, on a terminal only."""
        self._started = self._last_line = time.monotonic()
        if not sys.stdout.isatty():
            yield
            return
        from unbroken.capture.rng import kept_generators

        with kept_generators():  # a training on a terminal ends with the bits of one in a file
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, transient=True, redirect_stdout=True) as self._bar:
            self._task = self._bar.add_task("training", total=self.target, completed=self._start, note="")
            try:
                yield
            finally:
                self._bar = None

    def at(self, step: int) -> None:
        """Report the present step."""
        now = time.monotonic()
        if self._bar is not None and now - self._last_update > _SECONDS_BETWEEN_UPDATES:
            self._last_update = now
            self._bar.update(self._task, completed=step, note=f"{step:,}/{self.target:,} steps{self._reward}")
        elif self._bar is None and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            logs.LOGGER.info("[PROGRESS] %s", self._line(step, now - self._started))

    def _line(self, step: int, elapsed: float) -> str:
        rate = (step - self._start) / elapsed
        left = f", {logs.human_seconds((self.target - step) / rate)} left" if rate > 0 else ""
        share = min(1.0, step / self.target)
        return f"{step:,}/{self.target:,} steps ({share:.0%}), {rate:,.0f} steps/s{self._reward}{left}"
