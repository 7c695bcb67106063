"""Baselines of ramps and speed limits: ALINEA, limits by threshold, and feedback from the bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unbroken.errors import ConfigurationError
from unbroken.traffic.controllers.base import is_due
from unbroken.traffic.detectors import Detectors, Region
from unbroken.traffic.layout import Layout
from unbroken.traffic.ranges import HIGHEST_RATE, LIMITS, LOWEST_RATE
from unbroken.traffic.scenario import DECISION, Scenario
from unbroken.traffic.simulation import Simulation

Floats = NDArray[np.float64]
BEHIND = 250.0  # m behind a merge, where ALINEA measures


@dataclass(frozen=True)
class AlineaSettings:
    """`gain` in veh/h per unit of occupancy, `target` occupancy, and how full a ramp may be before the override."""

    gain: float = 4000.0
    target: float = 0.30
    longest_queue: float = 0.75


class Alinea:
    """q_k = q_{k-1} + K_R (o* - o), o the occupancy behind the merge; a full ramp is let go at its highest rate.

    M. Papageorgiou, H. Hadj-Salem, J.-M. Blosseville, Transp. Res. Rec. 1320:58 (1991). Rates stay between 240 and 1,800 veh/h.
    """

    def __init__(self, scenario: Scenario, settings: AlineaSettings) -> None:
        layout, network = Layout(scenario.network), scenario.network
        behind = [
            next(node.leaving[0] for node in network.nodes.values() if ramp in node.arriving) for ramp in network.meters
        ]
        self._behind = Detectors(layout, [Region(link, 0.0, BEHIND) for link in behind])
        self._ramps = Detectors(layout, [Region(ramp, 0.0, network.links[ramp].length) for ramp in network.meters])
        self._settings = settings
        self._rates: Floats | None = None

    def act(self, simulation: Simulation) -> None:
        """Set the rates, every 15 s."""
        if not is_due(simulation, DECISION):
            return
        self._behind.look(simulation)
        self._ramps.look(simulation)
        error = self._settings.target - self._behind.occupancy
        before = np.full(error.shape, HIGHEST_RATE) if self._rates is None else self._rates
        self._rates = np.clip(before + self._settings.gain * error, LOWEST_RATE, HIGHEST_RATE)
        full = self._ramps.occupancy > self._settings.longest_queue
        simulation.set_rates(np.where(full, HIGHEST_RATE, self._rates) / 3600)


class _Limits:
    """Sets the same limit in the last `n_zones` zones, by steps of 10 km/h."""

    def __init__(self, scenario: Scenario, bottleneck: str, n_zones: int) -> None:
        if bottleneck not in scenario.network.links:
            raise ConfigurationError(
                f"bottleneck {bottleneck}: no such link; links are {', '.join(scenario.network.links)}"
            )
        if n_zones < 1:
            raise ConfigurationError(f"n_zones must be at least 1, not {n_zones}")
        self._links: Sequence[str] = [link for links in list(scenario.zones.values())[-n_zones:] for link in links]
        length = scenario.network.links[bottleneck].length
        self._watched = Detectors(Layout(scenario.network), [Region(bottleneck, 0.0, length)])
        self._choice: NDArray[np.int64] | None = None

    def _occupancy(self, simulation: Simulation) -> Floats:
        self._watched.look(simulation)
        if self._choice is None:
            self._choice = np.full(simulation.batch, len(LIMITS) - 1, dtype=np.int64)
        return np.asarray(self._watched.occupancy[:, 0])

    def _move(self, simulation: Simulation, wanted: NDArray[np.int64]) -> None:
        assert self._choice is not None
        self._choice += np.clip(np.clip(wanted, 0, len(LIMITS) - 1) - self._choice, -1, 1)
        for link in self._links:
            simulation.set_limit(link, LIMITS[self._choice])


class ThresholdLimits(_Limits):
    """40 km/h while the road before the bottleneck is fuller than `threshold`, 60 km/h otherwise."""

    def __init__(self, scenario: Scenario, bottleneck: str, threshold: float = 0.3, n_zones: int = 2) -> None:
        super().__init__(scenario, bottleneck, n_zones)
        self._threshold = threshold

    def act(self, simulation: Simulation) -> None:
        """Compare, every 15 s."""
        if is_due(simulation, DECISION):
            full = self._occupancy(simulation) > self._threshold
            self._move(simulation, np.where(full, 1, len(LIMITS) - 1))


class FeedbackLimits(_Limits):
    """Mainline feedback: an integral controller of the occupancy before the bottleneck, its output rounded to a limit.

    After R. C. Carlson, I. Papamichail, M. Papageorgiou, IEEE Trans. Intell. Transp. Syst. 12:1261 (2011). `gain` in steps of 10
    km/h per unit of occupancy and decision.
    """

    def __init__(
        self, scenario: Scenario, bottleneck: str, target: float = 0.2, gain: float = 1.0, n_zones: int = 4
    ) -> None:
        super().__init__(scenario, bottleneck, n_zones)
        self._target, self._gain = target, gain
        self._level: Floats | None = None

    def act(self, simulation: Simulation) -> None:
        """Integrate the error, every 15 s."""
        if not is_due(simulation, DECISION):
            return
        error = self._target - self._occupancy(simulation)
        before = np.full(error.shape, len(LIMITS) - 1.0) if self._level is None else self._level
        self._level = np.clip(before + self._gain * error, 0.0, len(LIMITS) - 1.0)
        self._move(simulation, np.rint(self._level).astype(np.int64))
