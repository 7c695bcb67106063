"""The times that a journal goes by, in seconds of the monotonic clock."""

from __future__ import annotations

import math
import time
from collections import defaultdict

# of the interval: rollouts that are shorter lose little, and noting them would cost more than it saves
_WORTH = 0.1


class Pace:
    """How fast cuts and steps follow one another, and when the state has to be safe again.

    `seconds` is how much time a kill may cost. `longest_gap` is between two steps, with all that the learner does meanwhile.
    """

    def __init__(self, seconds: float) -> None:
        self.longest_gap = 0.0
        self.is_slow = True
        self._seconds = seconds
        self._longest_point = 0.0
        self._safe = self._began = time.monotonic()
        self._cut: float | None = None
        self._last: float | None = None
        self._step = 0.0
        self._spent: defaultdict[int, float] = defaultdict(float)
        self._steps: defaultdict[int, int] = defaultdict(int)

    def cut(self) -> None:
        """A cut begins: the rollout before it is measured. The first of a leg counts as slow."""
        self.is_slow = self._cut is None or time.monotonic() - self._cut >= _WORTH * self._seconds

    def begin(self) -> None:
        """A rollout begins."""
        self._cut = self._began = time.monotonic()

    def safe(self) -> None:
        """What there is now is safe, or is being made so."""
        self._safe = time.monotonic()

    def arrived(self) -> None:
        """A replay is over: nothing before tells how fast the environments are."""
        self._cut = self._last = None
        self._began = time.monotonic()
        self.safe()

    def noting(self) -> None:
        """Steps are measured from here on: those before were not."""
        self._last = None

    def stepped(self, channel: int, started: float) -> None:
        """A step that was begun at `started` is done."""
        now = time.monotonic()
        self._spent[channel] += now - started
        self._steps[channel] += 1
        self._step = now - started
        self.longest_gap = max(self.longest_gap, now - (started if self._last is None else self._last))
        self._last = now

    def saved(self, started: float) -> None:
        """A point that was begun at `started` is on disk."""
        self._longest_point = max(self._longest_point, time.monotonic() - started)

    @property
    def is_due(self) -> bool:
        """Whether the next step would end too late."""
        return time.monotonic() + self._step - self._safe >= self._seconds

    @property
    def is_under_way(self) -> bool:
        """Whether this rollout lasts long enough to be left for a deadline: with a short one, every leg still gets somewhere."""
        return time.monotonic() - self._began >= _WORTH * self._seconds

    @property
    def seconds_needed(self) -> float:
        """Time for one more step and the last point, with two seconds to spare."""
        return self.longest_gap + 2 * self._longest_point + 2.0

    def longest_wait(self, rollout_seconds: float) -> float:
        """How long a leg may go on until it can end: at a cut, or once its rollout is under way, after the next step."""
        # 0 where none has been measured
        return min(rollout_seconds or math.inf, self.longest_gap + _WORTH * self._seconds)

    def patience(self, grace_seconds: float) -> float:
        """How long somebody who asks for a stop may wait for a cut."""
        return min(grace_seconds / 2, _WORTH * self._seconds)

    def step_seconds(self, channels: int) -> list[float]:
        """Mean seconds of a step of each vector environment."""
        return [self._spent[k] / self._steps[k] if self._steps[k] else 0.0 for k in range(channels)]
