"""What is measured of a controlled network, per class where that makes sense. Formulas are in the docstrings.

"Vehicles" are means of a flow, so they need not be whole numbers. Motorcycles come first on class axes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbroken.traffic.detectors import SLOW
from unbroken.traffic.scheme.regions import NOBODY
from unbroken.traffic.simulation import Simulation

Floats = NDArray[np.float64]
Pair = tuple[float, float]


@dataclass(frozen=True)
class Metrics:
    """Of one simulation, from `start` to `end` (s). Pairs are (motorcycles, cars).

    time_spent: veh s, integral of sum of rho dx lanes plus origin queues.
    delay: veh s, time_spent less the time that the distance driven takes at free speed (or the link's limit). Drivers take time to
        slow down, so behind a fall of the limit on an empty road it is a little below zero.
    delay_per_vehicle: s, delay over vehicles that left: the control delay of those served.
    travel_time: s, time_spent over the mean of vehicles that arrived and left (exact where the network ends as full as it began).
    arrived, left, remaining: vehicles that came, that left, that are still inside or wait outside at the end.
    imbalance: vehicles, greatest |arrived - left - stored| since the simulation began, at any sample; rounding only.
    queue_mean, queue_95, queue_max: m, of the longest queue of any link at each sample; a queue is contiguous cells whose vehicles
        are slower than 5 km/h on average.
    stops: per vehicle that arrived: vehicles that enter a queued cell from a moving one, and those in a cell when it turns
        queued. At a
        link's beginning the cell before is the last one of the link that most vehicles come from.
    spillback: share of (link, sample) whose queue reaches the link's beginning, over links that begin at a node.
    worst_approach_delay: s per vehicle that passed, of the link that ends at a node and delays most (of those that 10 passed).
    """

    start: float
    end: float
    time_spent: Pair
    delay: Pair
    delay_per_vehicle: Pair
    travel_time: Pair
    arrived: Pair
    left: Pair
    remaining: Pair
    imbalance: float
    queue_mean: float
    queue_95: float
    queue_max: float
    stops: float
    spillback: float
    worst_approach_delay: float

    @property
    def total_delay(self) -> float:
        """veh s, both classes."""
        return sum(self.delay)

    def plain(self) -> dict[str, Any]:
        """As plain data, with the total."""
        return {**asdict(self), "total_delay": self.total_delay}


class Recorder:
    """Samples copy `b` of a simulation from now on; call `sample` after each interval, `result` at the end."""

    def __init__(self, simulation: Simulation, b: int = 0) -> None:
        self._simulation, self._b = simulation, b
        self._start = simulation.time(b)
        self._totals = self._cumulative()
        self._present = simulation.state.present[b].copy()
        self._passed_at_start = simulation.state.passed[b].copy()
        self._passed = self._passed_at_start
        self._queued = self._queued_slots()
        self._longest: list[float] = []
        self._spilled: list[float] = []
        self._stopped = 0.0
        self._imbalance = simulation.imbalance()
        layout = simulation.layout
        self._joined = np.array(
            [layout.links.index(x) for node in layout.network.nodes.values() for x in node.leaving], dtype=np.int64
        )

    def _cumulative(self) -> dict[str, Floats]:
        s, b = self._simulation, self._b
        return {"spent": s.time_spent()[b], "free": s.free_time()[b], "arrived": s.arrived()[b], "left": s.left()[b]}

    def _queued_slots(self) -> NDArray[np.bool_]:
        layout, cells = self._simulation.layout, self._simulation.state.cells[self._b]
        present = cells[:2].sum(axis=0)
        moving = (cells[:2] * self._simulation.speeds(self._b)).sum(axis=0)
        return np.asarray((present * layout.dx > NOBODY) & (moving < SLOW * present) & (layout.link_of_slot >= 0))

    def sample(self) -> None:
        """Look at queues, stops and balance now."""
        simulation, layout, b = self._simulation, self._simulation.layout, self._b
        queued = self._queued_slots()
        passed = simulation.state.passed[b]
        lanes = np.where(layout.dx > 0, layout.lane_length / np.where(layout.dx > 0, layout.dx, 1.0), 0.0)
        entered = ((passed - self._passed)[:, :-1].sum(axis=0)) * lanes
        behind = np.concatenate([[False], queued[:-1]])
        fed = layout.arrays.behind >= 0
        behind[layout.first[fed]] = queued[layout.arrays.last[layout.arrays.behind[fed]]]
        own = simulation.state.cells[b, :2].sum(axis=0) * layout.lane_length
        self._stopped += float(entered[queued & self._queued & ~behind].sum() + own[queued & ~self._queued].sum())
        self._longest.append(_longest_run(queued, layout.dx))
        if len(self._joined):
            self._spilled.append(float(queued[layout.first[self._joined]].mean()))
        self._imbalance = max(self._imbalance, simulation.imbalance())
        self._queued, self._passed = queued, passed.copy()

    def result(self) -> Metrics:
        """Metrics from the beginning of the recording until now."""
        simulation = self._simulation
        now = self._cumulative()
        change = {name: now[name] - self._totals[name] for name in now}
        delay = change["spent"] - change["free"]
        longest = np.array(self._longest or [0.0])
        return Metrics(
            start=self._start,
            end=simulation.time(self._b),
            time_spent=_pair(change["spent"]),
            delay=_pair(delay),
            delay_per_vehicle=_pair(_ratio(delay, change["left"])),
            travel_time=_pair(_ratio(change["spent"], 0.5 * (change["arrived"] + change["left"]))),
            arrived=_pair(change["arrived"]),
            left=_pair(change["left"]),
            remaining=_pair(simulation.stored()[self._b]),
            imbalance=self._imbalance,
            queue_mean=float(longest.mean()),
            queue_95=float(np.percentile(longest, 95)),
            queue_max=float(longest.max()),
            stops=self._stopped / max(float(change["arrived"].sum()), 1e-9),
            spillback=float(np.mean(self._spilled or [0.0])),
            worst_approach_delay=self._worst_approach(),
        )

    def _worst_approach(self) -> float:
        simulation, layout = self._simulation, self._simulation.layout
        worst = 0.0
        present = simulation.state.present[self._b] - self._present
        passed = simulation.state.passed[self._b] - self._passed_at_start
        for link in (x for node in layout.network.nodes.values() for x in node.arriving):
            slots = layout.slots(link)
            out = float(passed[:, slots.stop].sum())
            if out * layout.network.links[link].lanes < 10:
                continue
            spent = present[:, slots] @ layout.dx[slots]
            mean = 0.5 * (passed[:, slots] + passed[:, slots.start + 1 : slots.stop + 1])
            free = (mean * layout.dx[slots] / layout.free_speed[:, slots]).sum(axis=1)
            worst = max(worst, float((spent - free).sum() / out))
        return worst


def _longest_run(queued: NDArray[np.bool_], dx: Floats) -> float:
    """m of the longest contiguous stretch; pads between links are never queued, so none crosses a node."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], queued, [False]])))
    along = np.concatenate([[0.0], np.cumsum(np.where(queued, dx, 0.0))])
    return float((along[edges[1::2]] - along[edges[::2]]).max()) if len(edges) else 0.0


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.where(b > 1e-9, a / np.where(b > 1e-9, b, 1.0), 0.0)


def _pair(values: Floats) -> Pair:
    return float(values[0]), float(values[1])
