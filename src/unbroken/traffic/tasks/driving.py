"""An agent as a controller: it sees and does in a simulation what it sees and does in its environment."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unbroken.traffic.controllers.base import is_due
from unbroken.traffic.scenario import DECISION
from unbroken.traffic.simulation import Simulation
from unbroken.traffic.tasks.base import Task, checked_actions


class Policy(Protocol):
    """What decides. One policy belongs to one episode: it may remember."""

    def act(self, observations: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[Any]:
        """Actions (B, parts) for observations (B, n) and legal choices (B, choices; none of continuous actions)."""
        ...

    def get_state(self) -> dict[str, Any]:
        """All that it remembers, as plain data and arrays."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_state` gave."""
        ...


class AgentControl:
    """Decides every 15 s by a policy. `task` is used by this controller alone."""

    def __init__(self, task: Task, policy: Policy) -> None:
        self._task, self._policy = task, policy
        self._restored: dict[str, Any] | None = None

    def act(self, simulation: Simulation) -> None:
        """Observe and apply, where a decision is due."""
        if not is_due(simulation, DECISION):
            return
        task = self._task
        if task.simulation is not simulation:
            task.take_over(simulation)
            if self._restored is not None:
                task.set_own_state(self._restored["task"])
        actions = self._policy.act(task.observe(), task.masks())
        task.apply(checked_actions(task.action_space, simulation.batch, actions))

    def get_state(self) -> dict[str, Any]:
        """See `Resumable`."""
        return {"task": self._task.own_state(), "policy": self._policy.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """See `Resumable`."""
        self._restored = state
        self._policy.set_state(state["policy"])
