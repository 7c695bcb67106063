"""Demand at an origin: a profile in absolute time, and the counts that a seed makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unbroken.errors import ConfigurationError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """Flow in veh/s, linear between (time in s, flow) points, constant before the first and after the last; and the motorcycles
    in it.

    Time is absolute: a shorter simulation sees the beginning of the same profile.
    """

    points: tuple[tuple[float, float], ...]
    motorcycle_share: float = 0.5

    def __post_init__(self) -> None:
        times = [time for time, _ in self.points]
        if not self.points or times != sorted(set(times)) or not all(map(math.isfinite, times)):
            raise ConfigurationError("a demand profile needs points in order of time, none twice")
        for _, flow in self.points:
            if not (flow >= 0 and math.isfinite(flow)):
                raise ConfigurationError(f"demand must be finite and at least 0, not {flow * 3600:g} veh/h")
        if not 0 <= self.motorcycle_share <= 1:
            raise ConfigurationError(f"the share of motorcycles must be from 0 to 1, not {self.motorcycle_share}")

    def means(self, n_periods: int, period: float) -> Floats:
        """Mean flow of each class in each period, veh/s, shape (2, n_periods): exact integrals of the profile."""
        times = np.array([time for time, _ in self.points])
        flows = np.array([flow for _, flow in self.points])
        edges = np.arange(n_periods + 1) * period
        knots = np.unique(np.concatenate([edges, times[(times > 0) & (times < edges[-1])]]))
        values = np.interp(knots, times, flows)
        integral = np.concatenate([[0.0], np.cumsum(np.diff(knots) * (values[1:] + values[:-1]) / 2)])
        total = np.diff(np.interp(edges, knots, integral)) / period
        return np.outer([self.motorcycle_share, 1 - self.motorcycle_share], total)


@dataclass(frozen=True)
class Demand:
    """Profiles by origin link. `counts` draws Poisson counts per period; without it arrivals are the profile's means."""

    profiles: Mapping[str, Profile]
    counts: bool = True

    def draw(self, origins: tuple[str, ...], duration: float, period: float, rng: np.random.Generator) -> Floats:
        """Flows in veh/s, shape (2, origins, periods), for `duration` s; origins without a profile have none.

        Draws period by period: what a generator gives for a shorter duration is the beginning of what it gives for a longer one.
        """
        n_periods = max(1, math.ceil(duration / period - 1e-9))
        means = np.zeros((n_periods, 2, len(origins)))
        for index, origin in enumerate(origins):
            if origin in self.profiles:
                means[:, :, index] = self.profiles[origin].means(n_periods, period).T
        flows = rng.poisson(means * period) / period if self.counts else means
        return np.ascontiguousarray(np.moveaxis(flows, 0, -1))


def arrived_by(flows: Floats, period: float, times: Floats) -> Floats:
    """Vehicles that have come by `times` (s, at least 0; shape (T,)) where flows (veh/s, last axis periods) are constant in periods
    and the last goes on for ever: shape (..., T)."""
    n_periods = flows.shape[-1]
    before = np.concatenate([np.zeros((*flows.shape[:-1], 1)), np.cumsum(flows, axis=-1)[..., :-1]], axis=-1) * period
    index = np.minimum((times / period).astype(np.int64), n_periods - 1)
    return np.asarray(before[..., index] + flows[..., index] * (times - index * period))
