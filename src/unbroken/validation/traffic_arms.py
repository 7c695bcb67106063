"""Arms of traffic scenarios: a controller or an agent in the simulator, from the cache where it has been computed before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbroken.cache.context import context_differences, numeric_context
from unbroken.cache.result import Result
from unbroken.cache.result_cache import ResultCache
from unbroken.cache.sources import file_source, module_sources
from unbroken.capture.codec import digest
from unbroken.fingerprint import traffic_scenario, traffic_task_module
from unbroken.traffic import environments
from unbroken.traffic.controllers.base import Controller
from unbroken.traffic.controllers.choosing import make_controller
from unbroken.traffic.environments import TrafficEnv
from unbroken.traffic.layout import Layout
from unbroken.traffic.metrics import Metrics, Rows, measured
from unbroken.traffic.playing import Episode, joined
from unbroken.traffic.registration import ENVIRONMENTS
from unbroken.traffic.rendering import main_path
from unbroken.traffic.scenario import DECISION, Horizon
from unbroken.traffic.tasks.base import Task
from unbroken.traffic.tasks.driving import AgentControl
from unbroken.validation.agents import Agent
from unbroken.validation.code import require_unchanged
from unbroken.validation.policies import loaded_policy
from unbroken.validation.results import Metric, Play, Queues, SpaceTime
from unbroken.validation.traffic_inputs import (
    PLAYING,
    Controlled,
    Described,
    baseline_control,
    drain_inputs,
    episode_inputs,
)

# by the name that a section gives, label, unit, and what makes it of the simulator's metrics
_METRICS: dict[str, tuple[str, str, Callable[[Metrics], float]]] = {
    "total_delay": ("total delay", "veh h", lambda m: m.total_delay / 3600),
    "travel_time": ("mean travel time", "s", lambda m: _mean(m, m.travel_time)),
    "delay_per_vehicle": ("delay per vehicle", "s", lambda m: m.total_delay / max(sum(m.left), 1e-9)),
    "stops": ("stops per vehicle", "", lambda m: m.stops),
    "queue_mean": ("longest queue, mean over time", "m", lambda m: m.queue_mean),
    "worst_approach_delay": ("delay on the worst approach", "s", lambda m: m.worst_approach_delay),
}


def traffic_metric(name: str) -> Metric:
    """A metric of traffic by name; less is better for all of them. Raises KeyError."""
    label, unit, _ = _METRICS[name]
    return Metric(name, label, unit, lower_is_better=True)


def traffic_metric_names() -> tuple[str, ...]:
    """Names that `traffic_metric` knows."""
    return tuple(_METRICS)


def _mean(metrics: Metrics, pair: tuple[float, float]) -> float:
    """Mean over vehicles of both classes."""
    return float(np.average(pair, weights=np.maximum(metrics.left, 1e-9)))


@dataclass(frozen=True)
class TrafficPlayer:
    """One arm of a scenario over a horizon: `make` gives a new controller for every episode."""

    name: str
    described: Described
    controlled: Controlled
    make: Callable[[], Controller]
    horizon: Horizon
    metric: str
    training_seed: int | None = None

    def rows(self, cache: ResultCache, seed: int) -> Rows:
        """Rows of an episode with its drain, from the cache or computed into it."""
        return self._found(cache, seed)[0]

    def _found(self, cache: ResultCache, seed: int) -> tuple[Rows, str]:
        """The rows, and how the places where they were computed differ from here."""
        steps, drain = round(self.horizon.measured / DECISION), round(self.horizon.drain / DECISION)
        inputs = episode_inputs(self.described, self.controlled, seed)
        main = cache.get_or_compute(
            inputs,
            lambda: self._played(seed, steps),
            lambda shorter: self._continued(seed, shorter, steps),
            steps=steps,
        )
        tail = cache.get_or_compute(drain_inputs(inputs, steps), lambda: self._drained(seed, main, drain), steps=drain)
        here = numeric_context()
        others = [context_differences(part.context, here) for part in (main, tail)]
        return joined(dict(main.arrays), dict(tail.arrays)), next(filter(None, others), "")

    def play(self, cache: ResultCache, seed: int) -> tuple[Play, Rows]:
        """An episode judged, and its rows for pictures."""
        rows, elsewhere = self._found(cache, seed)
        metrics = measured(rows, self.horizon.warm_up)
        play = Play(
            seed=seed,
            value=_METRICS[self.metric][2](metrics),
            measures=_measures(metrics),
            n_decisions=len(rows["time"]),
            seconds=float(rows["time"][-1]) - self.horizon.warm_up,
            demand=digest({"arrived": rows["arrived"]}),
            digest=digest(dict(rows)),
            imbalance=metrics.imbalance,
            elsewhere=elsewhere,
        )
        return play, rows

    def _episode(self, seed: int) -> Episode:
        return Episode(self.described.scenario, self.make(), seed)

    def _played(self, seed: int, steps: int) -> Result:
        episode = self._episode(seed)
        episode.begin()
        return self._result(episode, steps)

    def _continued(self, seed: int, shorter: Result, steps: int) -> Result:
        episode = self._episode(seed)
        episode.set_state(shorter.end)
        return self._result(episode, steps - (shorter.steps or 0))

    def _drained(self, seed: int, main: Result, drain: int) -> Result:
        """After the demand; where the saved end is that of a longer time or another machine, that time is simulated again."""
        episode = self._episode(seed)
        if main.end is not None and dict(main.context) == numeric_context():
            episode.set_state(main.end)
        else:
            episode.begin()
            episode.advance(main.steps or 0)
        episode.end_demand()
        return self._result(episode, drain)

    def _result(self, episode: Episode, steps: int) -> Result:
        rows: dict[str, NDArray[Any]] = dict(episode.advance(steps))
        require_unchanged(self.controlled.sources)
        return Result(rows, steps, episode.get_state())


def baseline_player(described: Described, name: str, horizon: Horizon, metric: str) -> TrafficPlayer:
    """The player of a baseline. Raises ConfigurationError for a name or settings that do not fit the scenario."""
    make = BaselineMaker(described, name)
    make()
    return TrafficPlayer(name, described, baseline_control(described.scenario, name), make, horizon, metric)


def agent_player(described: Described, agent: Agent, horizon: Horizon, metric: str) -> TrafficPlayer:
    """The player of a trained agent. Raises ConfigurationError where scenario and environment do not fit."""
    config = agent.spec.config
    module = traffic_task_module(traffic_scenario(config.target) or "")
    weights = {"algo": config.algo, "weights": agent.weights, "environment": config.target}
    code = {
        **module_sources(PLAYING, module, "unbroken.traffic.tasks.driving"),
        **file_source("unbroken.learners.policies"),
    }
    controlled = Controlled("rl", weights, code)
    return TrafficPlayer(
        "agent", described, controlled, AgentMaker(described, agent), horizon, metric, training_seed=config.seed
    )


def task_class(target: str) -> type[Task]:
    """The task of one of our environments."""
    env: type[TrafficEnv] = getattr(environments, ENVIRONMENTS[traffic_scenario(target) or ""])
    return env.task_class


def space_time(arm: str, seed: int, described: Described, rows: Rows) -> SpaceTime:
    """Occupancy along the main way of the first origin."""
    layout = Layout(described.scenario.network)
    slots = [layout.slots(link) for link in main_path(layout)]
    lengths = np.concatenate([layout.dx[own] for own in slots])
    times = rows["time"] - described.scenario.horizon.warm_up
    return SpaceTime(
        arm=arm,
        seed=seed,
        field=np.concatenate([rows["occupancy"][:, own] for own in slots], axis=1).astype(np.float32) / 255.0,
        times_s=np.concatenate([[times[0] - DECISION], times]),
        distances_m=np.concatenate([[0.0], np.cumsum(lengths)]),
    )


def queues(arm: str, described: Described, played: list[Rows]) -> Queues:
    """The longest queue over time, mean over plays."""
    longest = np.mean([rows["longest_queue"].mean(axis=1) for rows in played], axis=0)
    return Queues(arm, played[0]["time"] - described.scenario.horizon.warm_up, longest)


def _measures(metrics: Metrics) -> dict[str, float]:
    motorcycles, cars = metrics.delay
    return {
        "total_delay_veh_h": metrics.total_delay / 3600,
        "delay_motorcycles_veh_h": motorcycles / 3600,
        "delay_cars_veh_h": cars / 3600,
        "travel_time_motorcycles_s": metrics.travel_time[0],
        "travel_time_cars_s": metrics.travel_time[1],
        "stops_per_vehicle": metrics.stops,
        "queue_mean_m": metrics.queue_mean,
        "queue_95_m": metrics.queue_95,
        "queue_max_m": metrics.queue_max,
        "spillback_share": metrics.spillback,
        "worst_approach_delay_s": metrics.worst_approach_delay,
        "arrived_veh": sum(metrics.arrived),
        "left_veh": sum(metrics.left),
        "inside_at_end_veh": sum(metrics.remaining),
        "imbalance_veh": metrics.imbalance,
    }


@dataclass(frozen=True)
class BaselineMaker:
    """Makes a baseline's controller."""

    described: Described
    name: str

    def __call__(self) -> Controller:
        return make_controller(self.name, self.described.scenario)


@dataclass(frozen=True)
class AgentMaker:
    """Makes the controller that is an agent of one of our environments."""

    described: Described
    agent: Agent

    def __call__(self) -> Controller:
        task = task_class(self.agent.spec.config.target)(self.described.scenario)
        return AgentControl(task, loaded_policy(self.agent))
