"""What a comparison is made of, as plain values: plays, arms, learning curves, pictures. Nothing here computes or writes.

Units are in the names or in `Metric.unit`; seeds of demand are those of the environment, training seeds those of the learner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mode = Literal["quick", "full"]


@dataclass(frozen=True)
class Metric:
    """What is compared: `name` as in the section, `label` and `unit` for people, and which direction is better."""

    name: str
    label: str
    unit: str
    lower_is_better: bool


@dataclass(frozen=True)
class Play:
    """One arm on one seed of demand.

    `value` is the metric; `measures` are further numbers by name (units in the names). `seconds` is simulated time in which the
    arm was judged, None where the environment has no clock. `demand` identifies what arrived and `digest` everything that
    happened: equal texts mean equal bits. `imbalance` is |arrived - left - inside| in vehicles, None where nothing is counted.
    `elsewhere` says how where it was computed differs from here, empty where it does not.
    """

    seed: int
    value: float
    measures: Mapping[str, float]
    n_decisions: int
    seconds: float | None
    demand: str
    digest: str
    imbalance: float | None = None
    elsewhere: str = ""


@dataclass(frozen=True)
class Arm:
    """What is compared with what: a baseline by name, or an agent of one training (`training_seed` set, name `agent`)."""

    name: str
    plays: tuple[Play, ...]
    training_seed: int | None = None

    @property
    def is_agent(self) -> bool:
        return self.training_seed is not None

    def values(self) -> Floats:
        """The metric by seed, in the order of `plays`."""
        return np.array([play.value for play in self.plays])


@dataclass(frozen=True)
class Curve:
    """A training's evaluations: `values` are mean episodic rewards at `steps`; `legs` the steps at which its legs began."""

    training_seed: int
    steps: tuple[int, ...]
    values: tuple[float, ...]
    legs: tuple[int, ...]


@dataclass(frozen=True)
class SpaceTime:
    """Occupancy (0 to 1) of an arm on one seed, (times, positions), with both edges: `times_s` and `distances_m` have one more."""

    arm: str
    seed: int
    field: NDArray[np.float32]
    times_s: Floats
    distances_m: Floats


@dataclass(frozen=True)
class Queues:
    """The longest queue of an arm over time in m, mean over its seeds (and trainings); arrays (times,)."""

    arm: str
    times_s: Floats
    longest_m: Floats


@dataclass(frozen=True)
class Rule:
    """The verdict's rule, fixed in the section before anything runs.

    Met: the agents' metric is better than `baseline`'s by at least `target_percent` in the mean over trainings and seeds, and the
    whole 95 % interval of that improvement (resampled over trainings and over seeds) lies above `interval_above_percent`, with at
    least `least_trainings` trainings and `least_seeds` seeds. A quick comparison has no verdict, whatever it shows.
    `judged` says in words what is measured: metric and direction, environment, time, seeds, trainings, model.
    """

    baseline: str
    target_percent: float
    interval_above_percent: float = 0.0
    least_trainings: int = 3
    least_seeds: int = 10
    judged: str = ""


@dataclass(frozen=True)
class Comparison:
    """All of one scenario. `arms` holds the baselines and one arm for each training, all over the same seeds.

    `facts` is plain data for the report: horizon, decision interval, steps trained, digests of agents, what came from the cache.
    """

    scenario: str
    metric: Metric
    rule: Rule
    arms: tuple[Arm, ...]
    curves: tuple[Curve, ...] = ()
    space_time: tuple[SpaceTime, ...] = ()
    queues: tuple[Queues, ...] = ()
    facts: Mapping[str, Any] | None = None

    @property
    def agents(self) -> tuple[Arm, ...]:
        return tuple(arm for arm in self.arms if arm.is_agent)

    @property
    def baselines(self) -> tuple[Arm, ...]:
        return tuple(arm for arm in self.arms if not arm.is_agent)

    def baseline(self, name: str) -> Arm:
        """The baseline of that name; KeyError if there is none."""
        return next((arm for arm in self.baselines if arm.name == name), None) or _missing(name)


def _missing(name: str) -> Arm:
    raise KeyError(name)
