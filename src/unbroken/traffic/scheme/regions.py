"""What detectors see: sums over stretches of road, for every environment of a batch."""

from __future__ import annotations

from unbroken.traffic.scheme.compiling import kernel
from unbroken.traffic.scheme.law import speed
from unbroken.traffic.scheme.link import EMPTY

OCCUPANCY, VEHICLES, MOVING, QUEUED, QUEUE_LENGTH = 0, 1, 3, 5, 7
FEATURES = 8
NOBODY = 1e-6  # vehicles per lane in a cell: what is left of a platoon that has passed is no queue


@kernel
def look(law, cells, first, last, dx, slow, seen):
    """Fill `seen` (B, regions, FEATURES) from `cells` (B, 4, slots) for regions of slots first to last, both included.

    Features: mean occupancy; vehicles per lane of both classes; sum of their speeds (m/s); vehicles per lane slower than `slow`
    (m/s) of both classes; metres in which vehicles are on average slower than that.
    """
    for b in range(cells.shape[0]):
        for region in range(first.shape[0]):
            occupied, length = 0.0, 0.0
            for feature in range(FEATURES):
                seen[b, region, feature] = 0.0
            for i in range(first[region], last[region] + 1):
                r = law.lengths[0] * cells[b, 0, i] + law.lengths[1] * cells[b, 1, i]
                occupied += r * dx[i]
                length += dx[i]
                present, moving = 0.0, 0.0
                for k in range(2):
                    vehicles = cells[b, k, i] * dx[i]
                    w = cells[b, 2 + k, i] / max(cells[b, k, i], EMPTY)
                    v = speed(w, r * law.per_greatest[k], law.c[k], law.gamma)
                    seen[b, region, VEHICLES + k] += vehicles
                    seen[b, region, MOVING + k] += vehicles * v
                    present += vehicles
                    moving += vehicles * v
                    if v < slow:
                        seen[b, region, QUEUED + k] += vehicles
                if present > NOBODY and moving < slow * present:
                    seen[b, region, QUEUE_LENGTH] += dx[i]
            seen[b, region, OCCUPANCY] = occupied / length
