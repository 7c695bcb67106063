"""How any other Gymnasium environment is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unbroken.errors import ConfigurationError
from unbroken.fingerprint import environment_sources
from unbroken.targets import check_target, check_wrappers
from unbroken.validation.agents import Agent
from unbroken.validation.comparing import Played, Player, ScenarioPlan
from unbroken.validation.gymnasium_arms import World, agent_of, baseline_of, check_metric, gymnasium_metric
from unbroken.validation.results import Metric, Queues, SpaceTime
from unbroken.validation.wording import counted


@dataclass(frozen=True)
class GymnasiumKind:
    """Fulfils `comparing.Kind`."""

    plan: ScenarioPlan
    world: World
    decisions: int
    metric: Metric

    @classmethod
    def of(cls, plan: ScenarioPlan) -> GymnasiumKind:
        """Check what the section says. Raises ConfigurationError, UnknownTarget or MissingExtra."""
        part = plan.part
        decisions = part.horizon.of(plan.mode)
        if decisions != int(decisions):
            raise ConfigurationError(f"{plan.name}: a horizon in decisions is a whole number, not {decisions:g}")
        if part.drain is not None:
            raise ConfigurationError(f"{plan.name}: drain is for our traffic scenarios; leave it out")
        environment = part.agent.get("environment") or {}
        wrappers = environment.get("wrappers") or []
        check_target(part.environment)
        check_wrappers(wrappers)
        kwargs = {**part.kwargs, **(environment.get("kwargs") or {})}
        code = environment_sources(part.environment, kwargs, wrappers)
        world = World(part.environment, kwargs, tuple(wrappers), code)
        metric = gymnasium_metric(part.metric, part.unit, part.better)
        return cls(plan, world, int(decisions), metric)

    @property
    def span(self) -> str:
        """As the protocol says."""
        return f"over {counted(self.decisions, 'decision')} at most"

    def check(self) -> None:
        """As the protocol says: every policy is made once."""
        check_metric(self.metric.name)
        env = self.world.make()
        try:
            _require_forgetting(env)
            for name in (self.plan.part.baseline, *self.plan.part.others):
                baseline_of(self.world, name, self.decisions, self.metric.name).make(env)
        finally:
            env.close()

    def baseline(self, name: str) -> Player:
        """As the protocol says."""
        return baseline_of(self.world, name, self.decisions, self.metric.name)

    def agent(self, agent: Agent) -> Player:
        """As the protocol says."""
        return agent_of(self.world, agent, self.decisions, self.metric.name)

    def pictures(self, played: Mapping[str, list[Played]]) -> tuple[tuple[SpaceTime, ...], tuple[Queues, ...]]:
        """None."""
        return (), ()

    def facts(self) -> dict[str, Any]:
        """As the protocol says."""
        return {"environment": self.world.target, "decisions at most": self.decisions}


def _require_forgetting(env: Any) -> None:
    """Raise ConfigurationError for a wrapper with running statistics: no model has them, and a judged episode would begin anew."""
    from gymnasium import Wrapper

    while isinstance(env, Wrapper):
        for name, value in vars(env).items():
            # Gymnasium's and Stable-Baselines3's are two classes of that name
            if type(value).__name__ == "RunningMeanStd":
                raise ConfigurationError(
                    f"wrapper {type(env).__name__} learns statistics ({name}) that no model for use has, and judged episodes would "
                    "begin without them; normalise by agent.environment.normalize instead"
                )
        env = env.env
