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
FEWEST = 10.0  # vehicles that an approach must have let out to be judged


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


Rows = dict[str, Floats]


class Recorder:
    """Measures copy `b` of a simulation from now on: `sample` after each interval, `close_row` after each decision.

    Rows are plain arrays whose first axis is the decision, and count from the start of the recording: a prefix of the rows
    measures the shorter time. `start` takes a recording up again where it was, from its `get_state`.
    """

    def __init__(self, simulation: Simulation, b: int = 0, start: dict[str, Floats] | None = None) -> None:
        self._simulation, self._b = simulation, b
        layout = simulation.layout
        index = layout.links.index
        nodes = layout.network.nodes.values()
        self._joined = np.array([index(link) for node in nodes for link in node.leaving], dtype=np.int64)
        self._approaches = np.array([index(link) for node in nodes for link in node.arriving], dtype=np.int64)
        self._lanes = np.where(layout.dx > 0, layout.lane_length / np.where(layout.dx > 0, layout.dx, 1.0), 0.0)
        self._start = self._cumulative() if start is None else start
        self._passed = simulation.state.passed[b].copy()
        self._queued = self._queued_slots()
        self._samples: list[tuple[float, float, float, float]] = []
        self._rows: list[dict[str, Floats]] = []

    def get_state(self) -> dict[str, Floats]:
        """What another recorder of the same simulation needs to go on after a closed row."""
        return {name: value.copy() for name, value in self._start.items()}

    def _cumulative(self) -> dict[str, Floats]:
        """Totals since the simulation began; of approaches (links that end at a node): veh s spent, free, and vehicles out."""
        s, b, layout = self._simulation, self._b, self._simulation.layout
        passed, present = s.state.passed[b], s.state.present[b].sum(axis=0)
        mean = 0.5 * (passed[:, :-1] + passed[:, 1:])
        spent = np.add.reduceat(present * layout.lane_length, layout.first)
        free = np.add.reduceat((mean / layout.free_speed).sum(axis=0) * layout.lane_length, layout.first)
        out = passed[:, layout.arrays.last + 1].sum(axis=0) * layout.arrays.lanes
        return {
            "time": np.array(s.time(b)),
            "spent": s.time_spent()[b],
            "free": s.free_time()[b],
            "arrived": s.arrived()[b],
            "left": s.left()[b],
            "approaches": np.stack([spent, free, out])[:, self._approaches],
        }

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
        entered = ((passed - self._passed)[:, :-1].sum(axis=0)) * self._lanes
        behind = np.concatenate([[False], queued[:-1]])
        fed = layout.arrays.behind >= 0
        behind[layout.first[fed]] = queued[layout.arrays.last[layout.arrays.behind[fed]]]
        own = simulation.state.cells[b, :2].sum(axis=0) * layout.lane_length
        stopped = float(entered[queued & self._queued & ~behind].sum() + own[queued & ~self._queued].sum())
        spilled = float(queued[layout.first[self._joined]].mean()) if len(self._joined) else 0.0
        self._samples.append((_longest_run(queued, layout.dx), spilled, stopped, simulation.imbalance()))
        self._queued, self._passed = queued, passed.copy()

    def close_row(self) -> None:
        """End the row: totals now, less those at the start, and the samples since the row before."""
        simulation, b = self._simulation, self._b
        row = {name: value - self._start[name] for name, value in self._cumulative().items() if name != "time"}
        longest, spilled, stopped, imbalance = np.array(self._samples or np.zeros((0, 4))).T
        occupied = simulation.layout.law.lengths @ simulation.state.cells[b, :2]
        self._rows.append(
            {
                "time": np.array(simulation.time(b)),
                **row,
                "inside": simulation.stored()[b],
                "longest_queue": longest,
                "spilled": spilled,
                "stopped": np.array(stopped.sum()),
                "imbalance": np.array(imbalance.max(initial=simulation.imbalance())),
                "occupancy": np.round(255 * np.clip(occupied, 0, 1)).astype(np.uint8),
            }
        )
        self._samples = []

    def rows(self) -> Rows:
        """The closed rows so far; every row must have had as many samples as the others.

        time: s since the simulation began. spent, free: veh s, (n, 2). arrived, left, inside: vehicles, (n, 2). approaches: (n, 3,
        links that end at a node), see `Metrics.worst_approach_delay`. longest_queue (m), spilled: (n, samples). stopped, imbalance:
        vehicles. occupancy: of all slots in 255ths, for pictures.
        """
        return {name: np.array([row[name] for row in self._rows]) for name in self._rows[0]} if self._rows else {}

    def result(self) -> Metrics:
        """Metrics from the beginning of the recording until now."""
        if self._samples or not self._rows:
            self.close_row()
        return measured(self.rows(), float(self._start["time"]))


def measured(rows: Rows, start: float) -> Metrics:
    """Metrics of rows that count from `start` (s); of a prefix of the rows, those of the shorter time."""
    last = {name: values[-1] for name, values in rows.items()}
    delay = last["spent"] - last["free"]
    longest, arrived = rows["longest_queue"].ravel(), last["arrived"]
    spent, free, out = last["approaches"]
    used = out >= FEWEST
    each = np.where(used, spent - free, 0.0) / np.where(used, out, 1.0)
    return Metrics(
        start=start,
        end=float(last["time"]),
        time_spent=_pair(last["spent"]),
        delay=_pair(delay),
        delay_per_vehicle=_pair(_ratio(delay, last["left"])),
        travel_time=_pair(_ratio(last["spent"], 0.5 * (arrived + last["left"]))),
        arrived=_pair(arrived),
        left=_pair(last["left"]),
        remaining=_pair(last["inside"]),
        imbalance=float(rows["imbalance"].max()),
        queue_mean=float(longest.mean()) if len(longest) else 0.0,
        queue_95=float(np.percentile(longest, 95)) if len(longest) else 0.0,
        queue_max=float(longest.max(initial=0.0)),
        stops=float(rows["stopped"].sum()) / max(float(arrived.sum()), 1e-9),
        spillback=float(rows["spilled"].mean()) if rows["spilled"].size else 0.0,
        worst_approach_delay=float(each.max(initial=0.0)),
    )


def _longest_run(queued: NDArray[np.bool_], dx: Floats) -> float:
    """m of the longest contiguous stretch; pads between links are never queued, so none crosses a node."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], queued, [False]])))
    along = np.concatenate([[0.0], np.cumsum(np.where(queued, dx, 0.0))])
    return float((along[edges[1::2]] - along[edges[::2]]).max()) if len(edges) else 0.0


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.where(b > 1e-9, a / np.where(b > 1e-9, b, 1.0), 0.0)


def _pair(values: Floats) -> Pair:
    return float(values[0]), float(values[1])
