"""Variable speed limits: the limit of each zone, every 15 s."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from unbroken.errors import ConfigurationError
from unbroken.traffic.classes import mixed_capacity
from unbroken.traffic.controllers.flow import limits_to_pass, zone_ends
from unbroken.traffic.detectors import Detectors, Region
from unbroken.traffic.ranges import HIGHEST_LIMIT, LIMIT_CHANGE, LOWEST_LIMIT
from unbroken.traffic.road_network import RoadNetwork
from unbroken.traffic.scenario import Scenario
from unbroken.traffic.tasks.base import Floats, Task, flattened, require_control

CHANGE_COST = 0.001  # of a change by 10 km/h in one zone
SECTION = 250.0  # m
LOWEST_FLOW, HIGHEST_FLOW = 0.8, 1.04  # of the bottleneck's capacity
Actions = Literal["limits", "flow"]


class SpeedTask(Task):
    """Observation and both kinds of actions: see `AdaptiveSpeedControlEnv`."""

    def __init__(
        self,
        scenario: Scenario,
        batch: int = 1,
        measured: float | None = None,
        drain: float = 0.0,
        actions: Actions = "limits",
    ) -> None:
        require_control(scenario, "speed")
        super().__init__(scenario, batch, measured, drain)
        links = scenario.network.links
        regions = [
            Region(name, begin, min(link.length, begin + SECTION))
            for name, link in links.items()
            for begin in np.arange(0.0, link.length - SECTION / 2, SECTION).tolist() or [0.0]
        ]
        self._road = Detectors(self.simulation.layout, regions)
        self.n_observations = 3 * len(regions) + len(scenario.zones) + 1
        self._limits = np.full((batch, len(scenario.zones)), HIGHEST_LIMIT)  # km/h
        if actions not in ("limits", "flow"):
            raise ConfigurationError(f'actions must be "limits" or "flow", not {actions!r}')
        self._by_flow = actions == "flow"
        self.action_space = spaces.Box(-1.0, 1.0, (1 if self._by_flow else len(scenario.zones),), np.float32)
        self._ends = zone_ends(scenario)
        self._capacity = np.array([_bottleneck(scenario.network, links[-1]) for links in scenario.zones.values()])

    def begin(self, generators: list[np.random.Generator]) -> None:
        """As every task; zones start at the highest limit."""
        super().begin(generators)
        self._limits[:] = HIGHEST_LIMIT

    def apply(self, actions: NDArray[Any]) -> Floats:
        """Change the limits by at most 10 km/h, within 30 to 60 km/h; changes cost."""
        before = self._limits
        change = self._change_for_flow(actions) if self._by_flow else LIMIT_CHANGE * actions
        self._limits = np.clip(before + change, LOWEST_LIMIT, HIGHEST_LIMIT)
        for zone, links in enumerate(self.scenario.zones.values()):
            for link in links:
                self.simulation.set_limit(link, self._limits[:, zone] / 3.6)
        return np.asarray(CHANGE_COST * np.abs(self._limits - before).sum(axis=1) / LIMIT_CHANGE)

    def _change_for_flow(self, actions: NDArray[Any]) -> Floats:
        """km/h towards the limits at which the ends of the zones pass the flow that is asked for."""
        self._ends.look(self.simulation)
        flows = self._capacity * (LOWEST_FLOW + (HIGHEST_FLOW - LOWEST_FLOW) * 0.5 * (actions + 1.0))
        wanted = limits_to_pass(flows, self._ends.occupancy, self._ends.lanes)
        return np.asarray(np.clip(wanted - self._limits, -LIMIT_CHANGE, LIMIT_CHANGE))

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

    def _own_state(self) -> dict[str, Any]:
        return {"limits": self._limits.copy()}

    def _set_own_state(self, state: dict[str, Any]) -> None:
        self._limits = np.array(state["limits"], dtype=np.float64)


def _bottleneck(network: RoadNetwork, link: str) -> float:
    """Metres of cars per second that the narrowest link that can be reached from `link` passes in equilibrium."""
    reached, new = set[str](), {link}
    while new:
        reached |= new
        moves = (move for node in network.nodes.values() for move in node.movements)
        new = {move.destination for move in moves if move.origin in reached} - reached
    cars = network.classes[1]
    return (
        min(network.links[name].lanes for name in reached)
        * cars.length
        * mixed_capacity(0.0, network.classes, network.gamma)
    )
