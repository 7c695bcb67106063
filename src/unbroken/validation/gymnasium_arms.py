"""Arms of any Gymnasium environment: a policy of the user's, or an agent, over the same seeds and decisions."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from unbroken.cache.context import context_differences, numeric_context
from unbroken.cache.inputs import Inputs, Kind
from unbroken.cache.result import Result
from unbroken.cache.result_cache import ResultCache
from unbroken.cache.sources import file_source
from unbroken.capture.codec import digest
from unbroken.errors import ConfigurationError, UnbrokenError
from unbroken.fingerprint import argument_files, code_sources
from unbroken.targets import find_modules_here, make_environment, wrapped
from unbroken.validation.agents import Agent
from unbroken.validation.code import require_unchanged
from unbroken.validation.policies import loaded_policy
from unbroken.validation.results import Metric, Play

_LABELS = {"return": "return of an episode", "length": "decisions of an episode"}
Policy = Callable[[Any], Any]


@dataclass(frozen=True)
class World:
    """An environment by name, with its arguments and wrappers as a run's configuration has them."""

    target: str
    kwargs: Mapping[str, Any]
    wrappers: tuple[Any, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)  # digests of its code, taken where it was checked

    def make(self) -> Any:
        """A new environment. Raises UnknownTarget, MissingExtra or ConfigurationError."""
        return wrapped(make_environment(self.target, self.kwargs), list(self.wrappers))


def gymnasium_metric(name: str, unit: str, better: str | None) -> Metric:
    """A metric by name; more is better unless the section says otherwise."""
    return Metric(name, _LABELS.get(name, name), unit, lower_is_better=better == "lower")


@dataclass(frozen=True)
class GymnasiumPlayer:
    """One arm over at most `decisions` decisions; `make(env)` gives a new policy for every episode."""

    name: str
    world: World
    kind: Kind
    described: Mapping[str, Any]
    code: Mapping[str, str]
    make: Callable[[Any], Policy]
    decisions: int
    metric: str
    training_seed: int | None = None

    def inputs(self, seed: int) -> Inputs:
        """What an episode depends on. Episodes end by themselves, so that their length is part of it."""
        return Inputs(
            scenario=self.world.target,
            kind=self.kind,
            values={
                "environment": {
                    "target": self.world.target,
                    "kwargs": dict(self.world.kwargs),
                    "wrappers": self.world.wrappers,
                },
                "seed": seed,
                "controller": self.described,
                "decisions": self.decisions,
                "metric": self.metric,
            },
            sources={**self.world.sources, **self.code},
            context=numeric_context(),
        )

    def play(self, cache: ResultCache, seed: int) -> tuple[Play, dict[str, NDArray[Any]]]:
        """An episode judged, and its rows."""
        found = cache.get_or_compute(self.inputs(seed), lambda: self._played(seed))
        rewards = found.arrays["rewards"]
        play = Play(
            seed=seed,
            value=float(found.arrays["value"]),
            measures={"return": float(rewards.sum()), "length": float(len(rewards))},
            n_decisions=self.decisions,
            seconds=None,
            demand=str(found.facts["first_observation"]),
            digest=digest({name: np.asarray(values) for name, values in found.arrays.items()}),
            elsewhere=context_differences(found.context, numeric_context()),
        )
        return play, dict(found.arrays)

    def _played(self, seed: int) -> Result:
        env = self.world.make()
        try:
            observation, info = env.reset(seed=seed)
            env.action_space.seed(seed)
            first = digest({"observation": _flat(observation)})
            with _blaming(f"policy {self.name}"):
                policy = self.make(env)
            rewards, infos, observations = [], [info], []
            for _ in range(self.decisions):
                with _blaming(f"policy {self.name}"):
                    action = policy(observation)
                with _blaming(f"{self.world.target} with the action {action!r} of {self.name}"):
                    observation, reward, terminated, truncated, info = env.step(action)
                rewards.append(float(reward))
                observations.append(_flat(observation))
                infos.append(info)
                if terminated or truncated:
                    break
        finally:
            env.close()
        with _blaming(f"metric {self.metric}"):
            value = _value(self.metric, np.array(rewards), infos)
        require_unchanged({**self.world.sources, **self.code}, argument_files(self.world.kwargs, self.world.wrappers))
        arrays = {
            "rewards": np.array(rewards),
            "observations": np.array([digest({"observation": one}) for one in observations], dtype="U32"),
            "value": np.array(value),
        }
        return Result(arrays, facts={"first_observation": first})


@contextlib.contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Raise what a user's code raises as ConfigurationError that says whose it is, and where."""
    try:
        yield
    except UnbrokenError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())
        raise ConfigurationError(
            f"{what}: {type(error).__name__}: {text} ({Path(frame.filename).name}, line {frame.lineno})"
        ) from error


def _flat(observation: Any) -> NDArray[Any]:
    if isinstance(observation, Mapping):
        return np.concatenate([_flat(observation[key]).ravel().astype(np.float64) for key in sorted(observation)])
    if isinstance(observation, tuple):
        return np.concatenate([_flat(one).ravel().astype(np.float64) for one in observation])
    return np.asarray(observation)


def _value(metric: str, rewards: NDArray[np.float64], infos: list[Mapping[str, Any]]) -> float:
    if metric == "return":
        return float(rewards.sum())
    if metric == "length":
        return float(len(rewards))
    kind, _, name = metric.partition(":")
    if kind == "info":
        if name not in infos[-1]:
            raise ConfigurationError(
                f"metric {metric}: the last info has no {name!r}, it has {', '.join(map(str, infos[-1])) or 'nothing'}"
            )
        return float(infos[-1][name])
    return float(imported_place(metric)(rewards, infos))


def check_metric(metric: str) -> None:
    """Raise ConfigurationError for a metric that does not exist, as far as that shows before anything is played."""
    kind, colon, name = metric.partition(":")
    if metric in _LABELS or (kind == "info" and name):
        return
    if not colon:
        raise ConfigurationError(f"metric {metric!r}: write return, length, info:KEY or module:function")
    imported_place(metric)


def _judging(metric: str) -> dict[str, str]:
    """Digests of the code that plays an episode and makes the metric of it."""
    kind, _, name = metric.partition(":")
    return {**file_source(__name__), **(code_sources(kind) if name and kind != "info" else {})}


def imported_place(place: str) -> Any:
    """What `module:name` names. Raises ConfigurationError."""
    module, _, name = place.partition(":")
    find_modules_here()
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{place!r} cannot be imported: {error}") from error


@dataclass(frozen=True)
class NamedPolicy:
    """`random`, `constant:VALUE`, or `module:name`: a class made with the environment, or a function of the observation."""

    name: str

    def __call__(self, env: Any) -> Policy:
        """A new policy for an episode in `env`. Raises ConfigurationError."""
        if self.name == "random":
            return lambda observation: env.action_space.sample()
        kind, _, value = self.name.partition(":")
        if kind == "constant":
            return _constant(env, value)
        found = imported_place(self.name)
        is_class: bool = inspect.isclass(found)
        policy: Policy = found(env) if is_class else found
        return policy

    def code(self) -> dict[str, str]:
        """Digests of the policy's code."""
        kind, _, name = self.name.partition(":")
        return code_sources(kind) if name and kind != "constant" else {}


def _constant(env: Any, text: str) -> Policy:
    space = env.action_space
    try:
        action = np.full(space.shape, float(text), dtype=space.dtype) if space.shape else int(text)
    except ValueError:
        raise ConfigurationError(f"constant:{text}: {text!r} is no number") from None
    if not space.contains(action):
        raise ConfigurationError(f"constant:{text}: {text} is not in the action space {space}")
    return lambda observation: action


@dataclass(frozen=True)
class AgentPolicy:
    """The policy of a trained agent."""

    agent: Agent

    def __call__(self, env: Any) -> Policy:
        """The policy at the beginning of an episode."""
        policy, space = loaded_policy(self.agent), env.action_space

        def act(observation: Any) -> Any:
            masks = env.get_wrapper_attr("action_masks")() if policy.masked else None
            action = policy.act(observation, masks)
            return int(action) if isinstance(space, spaces.Discrete) else action

        return act


def agent_of(world: World, agent: Agent, decisions: int, metric: str) -> GymnasiumPlayer:
    """The player of a trained agent."""
    config = agent.spec.config
    described = {"algo": config.algo, "weights": agent.weights}
    code = {**file_source("unbroken.learners.policies"), **_judging(metric)}
    return GymnasiumPlayer("agent", world, "rl", described, code, AgentPolicy(agent), decisions, metric, config.seed)


def baseline_of(world: World, name: str, decisions: int, metric: str) -> GymnasiumPlayer:
    """The player of a named policy. Raises ConfigurationError for a name that leads nowhere."""
    if name != "random" and ":" not in name:
        raise ConfigurationError(f"baseline {name!r}: write random, constant:VALUE or module:policy")
    policy = NamedPolicy(name)
    code = {**policy.code(), **_judging(metric)}
    return GymnasiumPlayer(name, world, "baseline", {"name": name}, code, policy, decisions, metric)
