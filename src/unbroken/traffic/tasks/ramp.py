"""Ramp metering: the flow that each meter lets pass, every 15 s."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from unbroken.traffic.detectors import Detectors, Region
from unbroken.traffic.ranges import RATES
from unbroken.traffic.scenario import Scenario
from unbroken.traffic.tasks.base import Floats, Task, flattened, require_control

SECTION = 250.0  # m, length of a detector section
SECTIONS = 4  # that are seen before and behind each merge
OVERFLOW_COST = 0.1  # of a vehicle that waits outside of the ramp, over that of any other


class RampTask(Task):
    """Observation: see `RampMeteringEnv`."""

    def __init__(self, scenario: Scenario, batch: int = 1, measured: float | None = None, drain: float = 0.0) -> None:
        require_control(scenario, "ramp")
        super().__init__(scenario, batch, measured, drain)
        network, layout = scenario.network, self.simulation.layout
        self._ramps = Detectors(layout, [Region(ramp, 0.0, network.links[ramp].length) for ramp in network.meters])
        self._road = Detectors(layout, [region for ramp in network.meters for region in _sections(scenario, ramp)])
        self._origins = {
            m: network.origins.index(ramp) for m, ramp in enumerate(network.meters) if ramp in network.origins
        }
        self._storage = self._ramps.length * self._ramps.lanes * network.classes[1].jam_density()
        self.action_space = spaces.MultiDiscrete([len(RATES)] * len(network.meters))
        self.n_observations = 3 * len(self._road.lanes) + 3 * len(network.meters) + 1
        self._choice = np.full((batch, len(network.meters)), len(RATES) - 1, dtype=np.int64)

    def reset_own_state(self) -> None:
        """Meters start at their highest rate."""
        self._choice[:] = len(RATES) - 1

    def apply(self, actions: NDArray[Any]) -> Floats:
        """Set the rates. Vehicles that wait outside of a ramp cost `OVERFLOW_COST` more."""
        self._choice[:] = actions
        self.simulation.set_rates(RATES[self._choice])
        return np.asarray(OVERFLOW_COST * self._outside().sum(axis=1) / self.reference_vehicles)

    def _outside(self) -> Floats:
        """Vehicles that wait outside of each ramp, shape (B, meters); of ramps that begin at a node none are known."""
        outside = np.zeros((self.simulation.batch, len(self._ramps.lanes)))
        for meter, origin in self._origins.items():
            outside[:, meter] = self.simulation.state.waiting[:, :, origin].sum(axis=1)
        return outside

    def observe(self) -> NDArray[np.float32]:
        """Occupancy and speeds of the road's sections; occupied part of each ramp, what waits outside, its rate; clock."""
        self._road.look(self.simulation)
        self._ramps.look(self.simulation)
        outside = self._outside()
        parts = (
            self._road.occupancy,
            self._road.speed / self._road.free_speed,
            self._ramps.occupancy,
            outside / (outside + self._storage),
            self._choice / (len(RATES) - 1),
            self.clock(),
        )
        return flattened(self.simulation.batch, parts)

    def masks(self) -> NDArray[np.bool_]:
        """Every rate is legal."""
        return np.ones((self.simulation.batch, len(RATES) * len(self._ramps.lanes)), dtype=np.bool_)

    def own_state(self) -> dict[str, Any]:
        return {"choice": self._choice.copy()}

    def set_own_state(self, state: dict[str, Any]) -> None:
        self._choice = np.array(state["choice"], dtype=np.int64)


def _sections(scenario: Scenario, ramp: str) -> list[Region]:
    """Sections before and behind the merge of a ramp, upstream first."""
    network = scenario.network
    node = next(node for node in network.nodes.values() if ramp in node.arriving)
    before = [link for link in node.arriving if link != ramp]
    sections = []
    for link in before:
        length = network.links[link].length
        for k in range(SECTIONS, 0, -1):
            sections.append(Region(link, length - k * SECTION, length - (k - 1) * SECTION))
    for link in node.leaving:
        sections += [Region(link, k * SECTION, (k + 1) * SECTION) for k in range(SECTIONS)]
    return [s for s in sections if s.end > 0 and s.begin < network.links[s.link].length]
