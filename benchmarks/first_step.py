"""An environment that leaves a mark at its first step: what `resume_time.py` measures up to.

Only a process that the benchmark itself has started marks, not its children: the self-test steps environments too.
"""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium

MARK = "FIRST_STEP_MARK"
PARENT = "FIRST_STEP_PARENT"


class _Mark(gymnasium.Wrapper):
    """Writes the time of the first step and ends the process there."""

    def step(self, action: Any) -> Any:
        """Step the environment."""
        result = self.env.step(action)
        if MARK in os.environ and os.environ.get(PARENT) == str(os.getppid()):
            with open(os.environ[MARK], "w", encoding="ascii") as file:
                file.write(repr(time.time()))
            os._exit(0)
        return result


def cart_pole() -> Any:
    """CartPole-v1 that marks its first step."""
    return _Mark(gymnasium.make("CartPole-v1"))
