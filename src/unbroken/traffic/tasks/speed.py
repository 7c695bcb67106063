"""Variable speed limits: what each zone lets out, every 15 s."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from unbroken.errors import ConfigurationError
from unbroken.traffic.controllers.flow import ZoneEnds, move_limits
from unbroken.traffic.detectors import Detectors, Region
from unbroken.traffic.ranges import HIGHEST_LIMIT, LIMIT_CHANGE, LOWEST_LIMIT
from unbroken.traffic.scenario import Scenario
from unbroken.traffic.tasks.base import Floats, Task, flattened, require_control

CHANGE_COST = 0.001  # of a change by 10 km/h in one zone
SECTION = 250.0  # m


class SpeedTask(Task):
    """Observation and actions: see `AdaptiveSpeedControlEnv`."""

    def __init__(self, scenario: Scenario, batch: int = 1, measured: float | None = None, drain: float = 0.0) -> None:
        require_control(scenario, "speed")
        if scenario.zone_flow is None:
            raise ConfigurationError(
                f"scenario {scenario.name} needs zone_flow_pcu_per_h: [lowest, highest] for actions"
            )
        self._flows = scenario.zone_flow
        super().__init__(scenario, batch, measured, drain)
        links = scenario.network.links
        regions = [
            Region(name, begin, min(link.length, begin + SECTION))
            for name, link in links.items()
            for begin in np.arange(0.0, link.length - SECTION / 2, SECTION).tolist() or [0.0]
        ]
        self._road = Detectors(self.simulation.layout, regions)
        self.action_space = spaces.Box(-1.0, 1.0, (len(scenario.zones),), np.float32)
        self.n_observations = 3 * len(regions) + len(scenario.zones) + 1
        self._ends = ZoneEnds(scenario)
        self._limits = np.full((batch, len(scenario.zones)), HIGHEST_LIMIT)  # km/h

    def reset_own_state(self) -> None:
        """Zones start at the highest limit."""
        self._limits[:] = HIGHEST_LIMIT

    def apply(self, actions: NDArray[Any]) -> Floats:
        """Move limits by at most 10 km/h towards those that let out the flows asked for, within 30 to 60 km/h; changes cost."""
        before, (lowest, highest) = self._limits, self._flows
        self._ends.detectors.look(self.simulation)
        flows = lowest + (highest - lowest) * 0.5 * (actions + 1.0)
        wanted = self._ends.limits_to_pass(flows, self._ends.detectors.occupancy)
        self._limits = move_limits(self.simulation, list(self.scenario.zones.values()), before, wanted)
        return np.asarray(CHANGE_COST * np.abs(self._limits - before).sum(axis=1) / LIMIT_CHANGE)

    def observe(self) -> NDArray[np.float32]:
        """Occupancy and speeds of all sections; the limits; clock."""
        self._road.look(self.simulation)
        parts = (
            self._road.occupancy,
            self._road.speed / self._road.free_speed,
            (self._limits - LOWEST_LIMIT) / (HIGHEST_LIMIT - LOWEST_LIMIT),
            self.clock(),
        )
        return flattened(self.simulation.batch, parts)

    def masks(self) -> NDArray[np.bool_]:
        """None: actions are continuous."""
        return np.ones((self.simulation.batch, 0), dtype=np.bool_)

    def own_state(self) -> dict[str, Any]:
        return {"limits": self._limits.copy()}

    def set_own_state(self, state: dict[str, Any]) -> None:
        self._limits = np.array(state["limits"], dtype=np.float64)
