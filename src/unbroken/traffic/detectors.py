"""What can be measured on stretches of road, as arrays over a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unbroken.traffic.layout import Layout
from unbroken.traffic.scheme import regions as kernels
from unbroken.traffic.simulation import Simulation

Floats = NDArray[np.float64]
SLOW = 5 / 3.6  # m/s: slower vehicles are queued


@dataclass(frozen=True)
class Region:
    """A stretch of a link from `begin` to `end`, m from its upstream end; cut to whole cells, at least one."""

    link: str
    begin: float
    end: float


class Detectors:
    """Looks at regions of every copy of a simulation. Arrays have the batch axis first, then regions, then classes."""

    def __init__(self, layout: Layout, regions: Sequence[Region]) -> None:
        slots = [_slots(layout, region) for region in regions]
        self._layout = layout
        self._first = np.array([s.start for s in slots], dtype=np.int64)
        self._last = np.array([s.stop - 1 for s in slots], dtype=np.int64)
        self.lanes = np.array([float(layout.network.links[region.link].lanes) for region in regions])
        self.length = np.array([layout.dx[s].sum() for s in slots])
        self.free_speed = np.array([layout.free_speed[:, s.start] for s in slots]).reshape(-1, 2)
        self._seen = np.zeros((0, len(regions), kernels.FEATURES))

    def look(self, simulation: Simulation) -> None:
        """Measure now; the properties give what was measured last."""
        if len(self._seen) != simulation.batch:
            self._seen = np.zeros((simulation.batch, len(self._first), kernels.FEATURES))
        kernels.look(
            self._layout.law, simulation.state.cells, self._first, self._last, self._layout.dx, SLOW, self._seen
        )

    @property
    def occupancy(self) -> Floats:
        """Mean r, shape (B, regions); 1 means that cars stand."""
        return np.asarray(self._seen[:, :, kernels.OCCUPANCY])

    @property
    def vehicles(self) -> Floats:
        """Vehicles on all lanes, shape (B, regions, 2)."""
        return np.asarray(self._seen[:, :, kernels.VEHICLES : kernels.VEHICLES + 2] * self.lanes[:, None])

    @property
    def queued(self) -> Floats:
        """Vehicles slower than 5 km/h on all lanes, shape (B, regions, 2)."""
        return np.asarray(self._seen[:, :, kernels.QUEUED : kernels.QUEUED + 2] * self.lanes[:, None])

    @property
    def queue_length(self) -> Floats:
        """m of road on which vehicles are slower than 5 km/h on average, shape (B, regions)."""
        return np.asarray(self._seen[:, :, kernels.QUEUE_LENGTH])

    @property
    def speed(self) -> Floats:
        """Mean speed of the vehicles of each class in m/s, shape (B, regions, 2); the free speed where there are none."""
        vehicles = self._seen[:, :, kernels.VEHICLES : kernels.VEHICLES + 2]
        moving = self._seen[:, :, kernels.MOVING : kernels.MOVING + 2]
        some = vehicles > kernels.NOBODY
        return np.where(some, moving / np.where(some, vehicles, 1.0), self.free_speed)


def _slots(layout: Layout, region: Region) -> slice:
    own = layout.slots(region.link)
    dx = layout.dx[own.start]
    begin = min(own.stop - 1, own.start + round(max(0.0, region.begin) / dx))
    end = min(own.stop, own.start + round(region.end / dx))
    return slice(begin, max(begin + 1, end))
