"""Made-up comparisons for tests of reports: everything a report shows, in a millisecond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from unbroken.validation.results import Arm, Comparison, Curve, Metric, Play, Queues, Rule, SpaceTime

DELAY = Metric("delay_veh_h", "delay", "veh h", lower_is_better=True)
MEANS = {"webster": 250.0, "actuated": 150.0, "max_pressure": 180.0}
TARGET = 15.0


def sample_arm(name: str, mean: float, seeds: range = range(2000, 2020), training_seed: int | None = None) -> Arm:
    """An arm whose metric is near `mean`; a seed's demand shifts all arms alike, and each arm differs a little on its own."""
    plays = []
    for seed in seeds:
        own = np.random.default_rng([seed, 0 if training_seed is None else 1 + training_seed, len(name)])
        busy = 1.0 + 0.1 * np.random.default_rng(seed).standard_normal()
        value = mean * float(busy) * (1.0 + 0.03 * float(own.standard_normal()))
        measures = {"motorcycles_veh_h": 0.4 * value, "cars_veh_h": 0.6 * value, "longest_queue_m": 2.0 * value}
        digest = f"{name} {training_seed} {seed}"
        plays.append(Play(seed, value, measures, 300, 4500.0, f"demand {seed}", digest, imbalance=1e-10))
    return Arm(name, tuple(plays), training_seed)


def sample_comparison(
    scenario: str = "traffic_light_control",
    means: Mapping[str, float] = MEANS,
    agents: tuple[float, ...] = (160.0, 165.0, 170.0, 166.0, 168.0),
    seeds: range = range(2000, 2020),
) -> Comparison:
    """Baselines with these `means`, the first of them the rule's, and one agent for each mean of `agents`; no pictures."""
    arms = [sample_arm(name, mean, seeds) for name, mean in means.items()]
    arms += [sample_arm("agent", mean, seeds, training_seed=k) for k, mean in enumerate(agents)]
    rule = Rule(baseline=next(iter(means)), target_percent=TARGET)
    facts = {
        "horizon": "3600 s after a warm-up of 900 s, 900 s of drain",
        "decision interval": "15 s",
        "trainings": [{"seed": k, "steps": 384_000, "legs": 1 + k % 3} for k in range(len(agents))],
        "from the cache": {"webster": "20 of 20 seeds", "agent": "none"},
    }
    return Comparison(scenario, DELAY, rule, tuple(arms), facts=facts)


def with_pictures(comparison: Comparison) -> Comparison:
    """The same with learning curves, space-time fields and queues for every arm's name."""
    names = [arm.name for arm in comparison.baselines] + ["agent"]
    return replace(
        comparison,
        curves=tuple(_curve(k) for k in range(len(comparison.agents))),
        space_time=tuple(_field(name, k) for k, name in enumerate(names)),
        queues=tuple(_queue(name, k) for k, name in enumerate(names)),
    )


def _curve(k: int) -> Curve:
    rng = np.random.default_rng(k)
    steps = tuple(range(8_000, 392_000, 8_000))
    values = tuple(float(-20 + 12 * (1 - np.exp(-s / 90_000)) + 0.4 * rng.standard_normal()) for s in steps)
    return Curve(k, steps, values, legs=(0, *(100_000 + 40_000 * k + 90_000 * leg for leg in range(k % 3))))


def _field(name: str, k: int) -> SpaceTime:
    times, distances = np.arange(0.0, 4501.0, 15.0), np.arange(0.0, 1201.0, 25.0)
    t, x = np.meshgrid(times[:-1] / 4500.0, distances[:-1] / 1200.0, indexing="ij")
    wave = 0.5 + 0.5 * np.sin(40.0 * t + 12.0 * x)
    busy = np.exp(-((t - 0.5) ** 2) / 0.05) * (0.3 + 0.7 * x) * (0.95 - 0.15 * k)
    return SpaceTime(name, 2000, (0.08 + 0.85 * busy * wave).clip(0.0, 1.0).astype(np.float32), times, distances)


def _queue(name: str, k: int) -> Queues:
    times = np.arange(0.0, 4501.0, 15.0)
    longest = 420.0 * np.exp(-((times - 2000.0 - 200.0 * k) ** 2) / 8e5) * (1.0 - 0.18 * k)
    return Queues(name, times, np.round(longest / 25.0) * 25.0)
