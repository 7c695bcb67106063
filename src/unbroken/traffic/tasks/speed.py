"""Variable speed limits: the limit of each zone, every 15 s."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbroken.traffic.detectors import Detectors, Region
from unbroken.traffic.ranges import LIMITS
from unbroken.traffic.scenario import Scenario
from unbroken.traffic.tasks.base import Floats, Task, flattened, require_control

CHANGE_COST = 0.005  # of a change by 10 km/h in one zone
SECTION = 500.0  # m


class SpeedTask(Task):
    """Observation: see `AdaptiveSpeedControlEnv`."""

    def __init__(self, scenario: Scenario, batch: int = 1, measured: float | None = None, drain: float = 0.0) -> None:
        require_control(scenario, "speed")
        super().__init__(scenario, batch, measured, drain)
        links = scenario.network.links
        regions = [
            Region(name, begin, min(link.length, begin + SECTION))
            for name, link in links.items()
            for begin in np.arange(0.0, link.length - SECTION / 2, SECTION).tolist() or [0.0]
        ]
        self._road = Detectors(self.simulation.layout, regions)
        self.action_sizes = (len(LIMITS),) * len(scenario.zones)
        self.n_observations = 3 * len(regions) + len(scenario.zones)
        self._choice = np.full((batch, len(scenario.zones)), len(LIMITS) - 1, dtype=np.int64)

    def begin(self, generators: list[np.random.Generator]) -> None:
        """As every task; zones start at the highest limit."""
        super().begin(generators)
        self._choice[:] = len(LIMITS) - 1

    def apply(self, actions: NDArray[np.int64]) -> Floats:
        """Go towards the wanted limits, by at most 10 km/h; each change costs."""
        change = np.clip(actions - self._choice, -1, 1)
        self._choice += change
        for zone, links in enumerate(self.scenario.zones.values()):
            for link in links:
                self.simulation.set_limit(link, LIMITS[self._choice[:, zone]])
        return np.asarray(CHANGE_COST * np.abs(change).sum(axis=1))

    def observe(self) -> NDArray[np.float32]:
        """Occupancy and speeds of all sections; the limits."""
        self._road.look(self.simulation)
        parts = (self._road.occupancy, self._road.speed / self._road.free_speed, self._choice / (len(LIMITS) - 1))
        return flattened(self.simulation.batch, parts)

    def masks(self) -> NDArray[np.bool_]:
        """Limits within 10 km/h of the present one."""
        near = np.abs(np.arange(len(LIMITS)) - self._choice[:, :, None]) <= 1
        return np.asarray(near.reshape(self.simulation.batch, -1))

    def _own_state(self) -> dict[str, Any]:
        return {"choice": self._choice.copy()}

    def _set_own_state(self, state: dict[str, Any]) -> None:
        self._choice = np.array(state["choice"], dtype=np.int64)
