"""Baselines of ramps and speed limits: ALINEA, limits by threshold, and feedback from the bottleneck."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unbroken.errors import ConfigurationError
from unbroken.traffic.controllers.base import Remembering, is_due
from unbroken.traffic.detectors import Detectors, Region
from unbroken.traffic.layout import Layout
from unbroken.traffic.ranges import HIGHEST_LIMIT, HIGHEST_RATE, LIMIT_CHANGE, LOWEST_LIMIT, LOWEST_RATE
from unbroken.traffic.road_network import RoadNetwork
from unbroken.traffic.scenario import DECISION, Scenario
from unbroken.traffic.simulation import Simulation

Floats = NDArray[np.float64]
BEHIND = 250.0  # m behind a merge, where ALINEA measures
ZONE_END = 150.0  # m before the end of a zone


@dataclass(frozen=True)
class AlineaSettings:
    """`gain` in veh/h per unit of occupancy, `target` occupancy, and how full a ramp may be before the override."""

    gain: float = 4000.0
    target: float = 0.30
    longest_queue: float = 0.75


class Alinea(Remembering):
    """q_k = q_{k-1} + K_R (o* - o), o the occupancy behind the merge; a full ramp is let go at its highest rate.

    M. Papageorgiou, H. Hadj-Salem, J.-M. Blosseville, Transp. Res. Rec. 1320:58 (1991). Rates stay between 240 and 1,800 veh/h.
    """

    _memory = ("_rates",)

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


def move_limits(simulation: Simulation, zones: Sequence[Sequence[str]], before: Floats, wanted: Floats) -> Floats:
    """Show limits that go from `before` towards `wanted`, km/h, (B, zones), by at most 10, within 30 to 60; returns them."""
    within = np.clip(wanted, LOWEST_LIMIT, HIGHEST_LIMIT)
    limits = before + np.clip(within - before, -LIMIT_CHANGE, LIMIT_CHANGE)
    for zone, links in enumerate(zones):
        for link in links:
            simulation.set_limit(link, limits[:, zone] / 3.6)
    return np.asarray(limits)


class _Limits(Remembering, ABC):
    """Limits of zones: go towards what is wanted by at most 10 km/h every 15 s, within 30 to 60 km/h."""

    _memory: ClassVar[tuple[str, ...]] = ("_limits",)

    def __init__(self, zones: Sequence[Sequence[str]], watched: Detectors) -> None:
        self._zones, self._watched = zones, watched
        self._limits: Floats | None = None  # km/h, (B, zones)

    def act(self, simulation: Simulation) -> None:
        """Look at the road and set the limits, every 15 s."""
        if not is_due(simulation, DECISION):
            return
        self._watched.look(simulation)
        before = np.full((simulation.batch, len(self._zones)), HIGHEST_LIMIT) if self._limits is None else self._limits
        self._limits = move_limits(simulation, self._zones, before, self._wanted(self._watched.occupancy))

    @abstractmethod
    def _wanted(self, occupancy: Floats) -> Floats:
        """Limits in km/h, (B, zones) or (B, 1), for what the detectors see, (B, regions)."""


def _behind_zones(scenario: Scenario) -> str:
    """The link into which the last zone leads."""
    zone = list(scenario.zones.values())[-1]
    last = _last_link(scenario.network, zone)
    moves = (move for node in scenario.network.nodes.values() for move in node.movements)
    return next((move.destination for move in moves if move.origin == last), last)


def _last_zones(scenario: Scenario, n_zones: int) -> list[tuple[str, ...]]:
    if n_zones < 1:
        raise ConfigurationError(f"n_zones must be at least 1, not {n_zones}")
    return list(scenario.zones.values())[-n_zones:]


def _before_bottleneck(scenario: Scenario, bottleneck: str | None) -> Detectors:
    links = scenario.network.links
    bottleneck = _behind_zones(scenario) if bottleneck is None else bottleneck
    if bottleneck not in links:
        raise ConfigurationError(f"bottleneck {bottleneck}: no such link; links are {', '.join(links)}")
    return Detectors(Layout(scenario.network), [Region(bottleneck, 0.0, links[bottleneck].length)])


class ThresholdLimits(_Limits):
    """`low` km/h in the last `n_zones` zones while the link before the bottleneck is fuller than `threshold`, else 60 km/h.

    `bottleneck` names that link; without it, the one into which the last zone leads.
    """

    def __init__(
        self,
        scenario: Scenario,
        bottleneck: str | None = None,
        threshold: float = 0.3,
        n_zones: int = 2,
        low: float = 40.0,
    ) -> None:
        super().__init__(_last_zones(scenario, n_zones), _before_bottleneck(scenario, bottleneck))
        self._threshold, self._low = threshold, low

    def _wanted(self, occupancy: Floats) -> Floats:
        return np.where(occupancy > self._threshold, self._low, HIGHEST_LIMIT)


class FeedbackLimits(_Limits):
    """Mainline feedback: an integral controller of the occupancy before the bottleneck, for the last `n_zones` zones.

    After R. C. Carlson, I. Papamichail, M. Papageorgiou, IEEE Trans. Intell. Transp. Syst. 12:1261 (2011). `gain` in km/h per unit
    of occupancy and decision; `bottleneck` as for `ThresholdLimits`.
    """

    _memory = ("_limits", "_level")

    def __init__(
        self,
        scenario: Scenario,
        bottleneck: str | None = None,
        target: float = 0.2,
        gain: float = 10.0,
        n_zones: int = 4,
    ) -> None:
        super().__init__(_last_zones(scenario, n_zones), _before_bottleneck(scenario, bottleneck))
        self._target, self._gain = target, gain
        self._level: Floats | None = None

    def _wanted(self, occupancy: Floats) -> Floats:
        before = np.full(occupancy.shape, HIGHEST_LIMIT) if self._level is None else self._level
        self._level = np.clip(before + self._gain * (self._target - occupancy), LOWEST_LIMIT, HIGHEST_LIMIT)
        return self._level


class HoldingLimits(_Limits):
    """In every zone the speed at which its end passes `flow`: what comes beyond it is held back in the zones.

    `flow` in passenger car units per hour: a bit below what the bottleneck passes without queue. Traffic at a lower speed is
    denser, so that zones store vehicles without standing queues, as long as the lowest limit lasts.
    """

    def __init__(self, scenario: Scenario, flow: float = 1965.0) -> None:
        self._ends = ZoneEnds(scenario)
        super().__init__(list(scenario.zones.values()), self._ends.detectors)
        self._flow = flow

    def _wanted(self, occupancy: Floats) -> Floats:
        return self._ends.limits_to_pass(self._flow / 3600.0, occupancy)


class ZoneEnds:
    """The last 150 m of every zone, and the limits at which they pass a flow.

    Flows are in passenger car units (a car's length of occupied lane; a motorcycle counts 0.29 by default).
    """

    def __init__(self, scenario: Scenario) -> None:
        network = scenario.network
        lengths = {name: link.length for name, link in network.links.items()}
        last = [_last_link(network, links) for links in scenario.zones.values()]
        ends = [Region(link, lengths[link] - ZONE_END, lengths[link]) for link in last]
        self.detectors = Detectors(Layout(network), ends)
        self._units = self.detectors.lanes / network.classes[1].length  # PCU per m where occupancy is 1

    def limits_to_pass(self, flow: ArrayLike, occupancy: Floats) -> Floats:
        """Speeds in km/h at which traffic of that occupancy, (B, zones), passes `flow` PCU/s; not within any range."""
        return np.asarray(3.6 * np.asarray(flow) / np.maximum(occupancy * self._units, 1e-6))


def _last_link(network: RoadNetwork, zone: Sequence[str]) -> str:
    """The link that leads out of a zone, whatever the order in which the scenario names its links; of several the last named."""
    moves = (move for node in network.nodes.values() for move in node.movements)
    within = {move.origin for move in moves if move.origin in zone and move.destination in zone}
    return next((link for link in reversed(zone) if link not in within), zone[-1])
