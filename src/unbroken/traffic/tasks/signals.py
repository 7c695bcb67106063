"""Traffic lights: the next phase of every node, each 15 s."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from unbroken.errors import ConfigurationError
from unbroken.traffic.detectors import Detectors, Region
from unbroken.traffic.scenario import DECISION, Scenario
from unbroken.traffic.tasks.base import Floats, Task, flattened, require_control

NEAR = 100.0  # m before the stop line, and behind it on exits


class SignalTask(Task):
    """Observation: see `TrafficLightControlEnv`."""

    def __init__(self, scenario: Scenario, batch: int = 1, measured: float | None = None, drain: float = 0.0) -> None:
        require_control(scenario, "signals")
        super().__init__(scenario, batch, measured, drain)
        for name, signal in ((n, scenario.network.nodes[n].signal) for n in self.simulation.layout.signals):
            if signal is not None and signal.max_green < signal.min_green + DECISION:
                raise ConfigurationError(
                    f"node {name}: with decisions every {DECISION:g} s max_green must be {DECISION:g} s more than min_green"
                )
        layout, network = self.simulation.layout, scenario.network
        nodes = [network.nodes[name] for name in layout.signals]
        self.arriving = tuple(link for node in nodes for link in node.arriving)
        self.leaving = tuple(link for node in nodes for link in node.leaving)
        lengths = {name: link.length for name, link in network.links.items()}
        self._near = Detectors(layout, [Region(link, lengths[link] - NEAR, lengths[link]) for link in self.arriving])
        self._whole = Detectors(layout, [Region(link, 0.0, lengths[link]) for link in self.arriving])
        self._ahead = Detectors(layout, [Region(link, 0.0, NEAR) for link in self.leaving])
        self._storage = _storage(self._whole, network.classes)
        self._n_phases = np.array([len(phases) for phases in layout.phases])
        self.action_space = spaces.MultiDiscrete(self._n_phases)
        self._phase_of = np.repeat(np.arange(len(nodes)), self._n_phases)
        self._phase_index = np.concatenate([np.arange(n) for n in self._n_phases])
        self._longest = np.array([self.simulation.signal(s).max_green for s in range(len(nodes))])
        self.n_observations = 6 * len(self.arriving) + len(self.leaving) + len(self._phase_of) + 2 * len(nodes) + 1

    def apply(self, actions: NDArray[Any]) -> Floats:
        """Request the phases. A phase at its maximal green goes over to the next in turn whatever is asked for."""
        phases = self.simulation.phases()
        late = self.simulation.must_switch(DECISION) & (actions == phases)
        self.simulation.request(np.where(late, (phases + 1) % self._n_phases, actions))
        return np.zeros(self.simulation.batch)

    def observe(self) -> NDArray[np.float32]:
        """Occupancy near stop lines and of approaches, speeds, queues; exits' occupancy; phases, green time, may it end; clock."""
        for detectors in (self._near, self._whole, self._ahead):
            detectors.look(self.simulation)
        phases = self.simulation.phases()
        parts = (
            self._near.occupancy / self._highest,
            self._whole.occupancy / self._highest,
            self._whole.speed / self._whole.free_speed,
            self._whole.queued / self._storage,
            self._ahead.occupancy / self._highest,
            phases[:, self._phase_of] == self._phase_index,
            self.simulation.green_times() / self._longest,
            self.simulation.may_switch(),
            self.clock(),
        )
        return flattened(self.simulation.batch, parts)

    @property
    def _highest(self) -> float:
        return max(c.max_occupancy for c in self.scenario.network.classes)

    def masks(self) -> NDArray[np.bool_]:
        """The phase shown is legal until its maximal green, the others after its minimal green."""
        shown = self.simulation.phases()[:, self._phase_of] == self._phase_index
        may, must = (
            self.simulation.may_switch()[:, self._phase_of],
            self.simulation.must_switch(DECISION)[:, self._phase_of],
        )
        return np.asarray(np.where(shown, ~(must & may), may))


def _storage(detectors: Detectors, classes: Any) -> Floats:
    """Vehicles of each class that fill a region when they are alone, shape (regions, 2)."""
    jam = np.array([c.jam_density() for c in classes])
    return np.asarray(detectors.length[:, None] * detectors.lanes[:, None] * jam)
