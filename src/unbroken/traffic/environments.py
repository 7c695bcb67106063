"""Gymnasium environments of the three scenarios. Registered through Gymnasium's entry point: `gymnasium.make("unbroken/...")`."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from unbroken.errors import ConfigurationError
from unbroken.traffic.scenario import Scenario, load_scenario
from unbroken.traffic.tasks.base import Task
from unbroken.traffic.tasks.ramp import RampTask
from unbroken.traffic.tasks.signals import SignalTask
from unbroken.traffic.tasks.speed import SpeedTask

QUICK, FULL = 600.0, 3600.0  # s, horizons of comparisons
TRAINING = 3600.0  # s, one length for every training


class TrafficEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.int64]]):
    """What the three environments share: one episode of a task.

    An episode begins after the warm-up and is truncated after `measured` and `drain` seconds; it never terminates. Its demand is
    drawn from the environment's generator at reset, so `reset(seed=s)` always gives the same arrivals, and a short episode sees
    the beginning of a long one's.
    """

    metadata = {  # noqa: RUF012 - Gymnasium declares it as an attribute of instances
        "render_modes": ["rgb_array"],
        "render_fps": 4,
    }
    task_class: ClassVar[type[Task]]
    default_scenario: ClassVar[str]

    def __init__(
        self,
        scenario: Scenario | str | None = None,
        measured: float = TRAINING,
        drain: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigurationError(f'render_mode must be "rgb_array" or None, not {render_mode!r}')
        chosen = self.default_scenario if scenario is None else scenario
        self.scenario = chosen if isinstance(chosen, Scenario) else load_scenario(chosen)
        self.render_mode = render_mode
        self.task = self.task_class(self.scenario, 1, measured, drain)
        self.observation_space = spaces.Box(0.0, 1.0, (self.task.n_observations,), np.float32)
        self.action_space = spaces.MultiDiscrete(list(self.task.action_sizes))
        self._begun = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """New demand, an empty network, and its warm-up."""
        super().reset(seed=seed)
        self.task.begin([self.np_random])
        self._begun = True
        return self.task.observe()[0], self._info()

    def step(self, action: NDArray[np.int64]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One decision of 15 s."""
        if not self._begun:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        chosen = np.asarray(action, dtype=np.int64)
        if chosen.shape != (len(self.task.action_sizes),) or not self.action_space.contains(chosen):
            raise ConfigurationError(f"action {action} is not in {self.action_space}")
        reward = self.task.decide(chosen[None])
        return self.task.observe()[0], float(reward[0]), False, self.task.over, self._info()

    def action_masks(self) -> NDArray[np.bool_]:
        """Which choices are legal now, all parts of the action one after the other (as sb3-contrib's MaskablePPO wants them)."""
        return np.asarray(self.task.masks()[0])

    def get_state(self) -> dict[str, Any]:
        """Everything that changes, as plain data and arrays; some kilobytes. The generator of demand is included."""
        return {"task": self.task.get_state(), "generator": self.np_random.bit_generator.state, "begun": self._begun}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where `get_state` was called, in this or another process."""
        self.task.set_state(state["task"])
        self.np_random.bit_generator.state = state["generator"]
        self._begun = bool(state["begun"])

    def render(self) -> NDArray[np.uint8]:
        """A picture of the network with densities and queues, shape (height, width, 3)."""
        from unbroken.traffic.rendering import draw_network

        return draw_network(self.task.simulation)

    def _info(self) -> dict[str, Any]:
        simulation = self.task.simulation
        return {
            "time": simulation.time(),
            "vehicles": float(simulation.stored().sum()),
            "time_spent": float(simulation.time_spent().sum()),
            "left": float(simulation.left().sum()),
        }


class TrafficLightControlEnv(TrafficEnv):
    """Signals on an avenue."""

    task_class = SignalTask
    default_scenario = "traffic_light_control"


class RampMeteringEnv(TrafficEnv):
    """A ramp meter on a two-lane road."""

    task_class = RampTask
    default_scenario = "ramp_metering"


class AdaptiveSpeedControlEnv(TrafficEnv):
    """Variable speed limits before a lane drop."""

    task_class = SpeedTask
    default_scenario = "adaptive_speed_control"
