"""What a hand-written loop with a Checkpointer writes into the process's trace (`unbroken.tracing`); nothing when there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from unbroken import tracing
from unbroken.capture.codec import settled
from unbroken.capture.environments import layers
from unbroken.capture.tracked import Tracked
from unbroken.keeper import reason_of
from unbroken.tracing import Owners

# names under which scripts log how fast they are
_CLOCKS = re.compile(r"(^|[/_])(sps|fps|time|seconds|duration)([/_]|$)|time_elapsed|per_second", re.IGNORECASE)


class LoopTrace:
    """The trace of one loop, named after its run folder. Used by the training thread."""

    def __init__(self, name: str, tracked: Tracked) -> None:
        self._trace = tracing.current()
        self._name = name
        self._tracked = tracked

    def began(self, step: int, total: int) -> None:
        """The loop begins or goes on at a step, everything tracked is restored, and no iteration has been made."""
        if self._trace is not None:
            self._trace.begin(f"{self._name}#0", total)
            self._trace.is_due(step)
            self._cut(step, "rollout")

    def logged(self, step: int, values: Mapping[str, Any]) -> None:
        """A row of the loop's log, without values that tell the time."""
        if self._trace is not None:
            kept = {name: value for name, value in values.items() if not _CLOCKS.search(name)}
            self._trace.logged(step, kept)

    def stepped(self, step: int) -> None:
        """An iteration is over."""
        if self._trace is not None:
            self._trace.step(step)

    def at_cut(self, step: int, kind: str, *, saves: bool = False) -> bool:
        """The iteration ended at a cut; returns whether the training has been followed far enough and is to stop."""
        if self._trace is None:
            return False
        over = self._trace.over(step)
        if self._trace.is_due(step) or over or saves or kind == "end":
            self._cut(step, kind)
        return over

    def _cut(self, step: int, kind: str) -> None:
        assert self._trace is not None
        try:
            captured = self._tracked.capture()
        except Exception as error:  # noqa: BLE001 - capturing runs the user's code, and a trace must not end a training
            self._trace.failed_cut(step, reason_of(error))
            return
        state = {"tensors": captured.tensors, "state": settled(captured.state)}
        environments = tuple(layer for env in self._tracked.environments() for layer in layers(env))
        self._trace.cut(step, kind, state, captured.missing, Owners(environments))
