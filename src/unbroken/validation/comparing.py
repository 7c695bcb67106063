"""One scenario of a section: its arms, played on all seeds, as a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unbroken.cache.result_cache import ResultCache
from unbroken.config import merged
from unbroken.errors import ConfigurationError, UsageError
from unbroken.traffic.scenario import DECISION, Horizon
from unbroken.validation.agents import Agent, AgentSpec, require_judgeable
from unbroken.validation.results import Arm, Comparison, Metric, Mode, Play, Queues, Rule, SpaceTime
from unbroken.validation.sections import ScenarioPart, Section
from unbroken.validation.wording import counted, listed

Rows = dict[str, NDArray[Any]]
EVALUATION_SEEDS = 1_000_000  # from here on a training's own evaluations have theirs
_OWN = frozenset({"target", "seed", "scenario"})
Played = tuple[Play, Rows]


class Player(Protocol):
    """An arm that can be played; it travels to worker processes."""

    @property
    def name(self) -> str: ...

    @property
    def training_seed(self) -> int | None: ...

    def play(self, cache: ResultCache, seed: int) -> Played:
        """One episode, from the cache or computed into it."""
        ...


# plays (arm, seed) pairs, perhaps in other processes, and returns their results in the same order
PlayAll = Callable[[list[tuple[Player, int]]], Iterable[Played]]


@dataclass(frozen=True)
class ScenarioPlan:
    """One scenario in one mode, before anything is trained or played."""

    name: str
    part: ScenarioPart
    mode: Mode
    seeds: tuple[int, ...]
    trainings: int

    @classmethod
    def of(cls, section: Section, name: str, mode: Mode, n_seeds: int | None) -> ScenarioPlan:
        """A scenario of a section; `n_seeds` goes over the mode's number of seeds."""
        first, n = section.seeds.first, n_seeds or section.seeds.of(mode)
        return cls(name, section.scenarios[name], mode, tuple(range(first, first + n)), section.trainings.of(mode))

    def specs(self) -> list[AgentSpec]:
        """The trainings whose agents are judged. Raises ConfigurationError."""
        part, quick = self.part, self.mode == "quick"
        specs = []
        for seed in range(self.trainings):
            own = {
                "target": part.environment,
                "seed": seed,
                "environment": {"kwargs": dict(part.kwargs)} if part.kwargs else {},
            }
            full = part.agent.get("total_timesteps")
            few = min(part.quick_timesteps, full) if isinstance(full, int) else part.quick_timesteps
            steps = {"total_timesteps": few} if quick else {}
            specs.append(AgentSpec(self.name, merged(merged(own, part.agent), steps), part.model, apart=quick))
        return specs

    def check_agents(self) -> None:
        """Raise ConfigurationError for trainings that cannot be judged, before any of them begins."""
        own = sorted(_OWN & self.part.agent.keys())
        if own:
            raise ConfigurationError(f"{self.name}: agent.{own[0]} is set by the section itself")
        for spec in self.specs():
            config = spec.config
            require_judgeable(config)
            trained = range(config.seed, config.seed + config.environment.n_envs)
            common = [seed for seed in self.seeds if seed in trained or seed >= EVALUATION_SEEDS]
            if common:
                raise ConfigurationError(
                    f"{self.name}: seed {common[0]} is one of training {config.seed} too: let seeds.first be at least "
                    f"{trained.stop}, and below {EVALUATION_SEEDS:,}"
                )


class Kind(Protocol):
    """What differs between our simulator and other environments."""

    @property
    def metric(self) -> Metric: ...

    @property
    def span(self) -> str:
        """Over what an arm is judged, in words."""
        ...

    def check(self) -> None:
        """Raise ConfigurationError, NotFound or UnknownTarget for what cannot be played, before anything is trained."""
        ...

    def baseline(self, name: str) -> Player: ...

    def agent(self, agent: Agent) -> Player: ...

    def pictures(self, played: Mapping[str, list[Played]]) -> tuple[tuple[SpaceTime, ...], tuple[Queues, ...]]: ...

    def facts(self) -> dict[str, Any]: ...


def kind_of(plan: ScenarioPlan) -> Kind:
    """How a scenario is played. Raises ConfigurationError or NotFound for one that cannot be."""
    if plan.part.traffic is not None:
        from unbroken.validation.traffic_kind import TrafficKind

        return TrafficKind.of(plan)
    from unbroken.validation.gymnasium_kind import GymnasiumKind

    return GymnasiumKind.of(plan)


def rule_of(plan: ScenarioPlan, kind: Kind) -> Rule:
    """The verdict's rule with all that it judges, known before anything runs."""
    metric, config = kind.metric, plan.specs()[0].config
    measured = f"{metric.label} in {metric.unit}" if metric.unit else metric.label
    named = "" if metric.name.replace("_", " ") == metric.label else f"{metric.name}, "
    trained = f"{counted(plan.trainings, 'training')} ({config.algo}, {counted(config.total_timesteps, 'step')})"
    judged = (
        f"{measured} ({named}{'less' if metric.lower_is_better else 'more'} is better) in {plan.part.environment}, {kind.span}, "
        f"on {counted(len(plan.seeds), 'seed')} ({listed(plan.seeds)}), by the {plan.part.model} model of {trained}"
    )
    return replace(plan.part.rule(), judged=judged)


def compare(plan: ScenarioPlan, kind: Kind, agents: list[Agent], play_all: PlayAll) -> Comparison:
    """Play all arms on all seeds."""
    names = [plan.part.baseline, *(name for name in plan.part.others if name != plan.part.baseline)]
    players = [*(kind.baseline(name) for name in names), *(kind.agent(agent) for agent in agents)]
    results = iter(play_all([(player, seed) for player in players for seed in plan.seeds]))
    arms, played = [], dict[str, list[Played]]()
    for player in players:
        own = [next(results) for _ in plan.seeds]
        arms.append(Arm(player.name, tuple(play for play, _ in own), player.training_seed))
        played.setdefault(player.name, []).extend(own)
    pictures, queues = kind.pictures(played)
    return Comparison(
        scenario=plan.name,
        metric=kind.metric,
        rule=rule_of(plan, kind),
        arms=tuple(arms),
        curves=tuple(agent.curve for agent in agents),
        space_time=pictures,
        queues=queues,
        facts={**kind.facts(), **_facts(plan, agents), **_elsewhere(arms)},
    )


def _facts(plan: ScenarioPlan, agents: list[Agent]) -> dict[str, Any]:
    steps = sorted({agent.step for agent in agents})
    return {
        "trainings": len(agents),
        "target of each training, steps": agents[0].spec.config.total_timesteps if agents else 0,
        "algorithm": agents[0].spec.config.algo if agents else "",
        "model judged": f"{plan.part.model}, of step {' '.join(f'{step:,}' for step in steps)}",
        "legs of each training": ", ".join(str(len(agent.curve.legs)) for agent in agents),
        "agents from the cache": sum(agent.from_cache for agent in agents),
        "agents' keys": ", ".join(agent.spec.inputs.short for agent in agents),
    }


def _elsewhere(arms: list[Arm]) -> dict[str, Any]:
    """Episodes that other machines or versions computed: nothing else in a report would show them."""
    found = Counter(play.elsewhere for arm in arms for play in arm.plays if play.elsewhere)
    episodes = sum(len(arm.plays) for arm in arms)
    if not found:
        return {"episodes": f"{episodes:,}, all computed with the versions and on the kind of machine named below"}
    return {"episodes": f"{episodes:,}", "of them computed elsewhere (there and here)": dict(found)}


def best_of(played: Mapping[str, list[Played]], names: Iterable[str], lower_is_better: bool) -> str:
    """The arm with the best mean."""
    sign = 1.0 if lower_is_better else -1.0
    return min(names, key=lambda name: sign * float(np.mean([play.value for play, _ in played[name]])))


def horizon_of(plan: ScenarioPlan, whole: Horizon) -> Horizon:
    """The horizon of a traffic scenario in this mode. Raises UsageError for one that is no whole number of decisions."""
    measured = plan.part.horizon.of(plan.mode)
    if measured % 60 or measured > whole.measured:
        raise UsageError(
            f"{plan.name}: horizon {measured:g} s must be a multiple of 60 s and at most {whole.measured:g} s"
        )
    drain = whole.drain if plan.part.drain is None else plan.part.drain
    if drain % DECISION:
        raise UsageError(f"{plan.name}: drain {drain:g} s must be a multiple of {DECISION:g} s")
    return replace(whole, measured=measured, drain=drain)
