"""How traffic scenarios are compared."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unbroken.errors import ConfigurationError
from unbroken.traffic.controllers.choosing import controller_names
from unbroken.traffic.scenario import DECISION, Horizon
from unbroken.validation.agents import Agent
from unbroken.validation.comparing import Played, Player, ScenarioPlan, best_of, horizon_of
from unbroken.validation.results import Metric, Queues, SpaceTime
from unbroken.validation.traffic_arms import (
    agent_player,
    baseline_player,
    queues,
    space_time,
    traffic_metric,
    traffic_metric_names,
)
from unbroken.validation.traffic_inputs import Described


@dataclass(frozen=True)
class TrafficKind:
    """Fulfils `comparing.Kind`."""

    plan: ScenarioPlan
    described: Described
    horizon: Horizon
    metric: Metric

    @classmethod
    def of(cls, plan: ScenarioPlan) -> TrafficKind:
        """Read the scenario and check what the section says of it. Raises ConfigurationError, NotFound or UsageError."""
        part = plan.part
        described = Described.read(str(part.kwargs.get("scenario") or part.traffic))
        if part.metric not in traffic_metric_names():
            raise ConfigurationError(
                f"{plan.name}: metric {part.metric!r} is none of {', '.join(traffic_metric_names())}"
            )
        if part.better is not None or part.unit:
            raise ConfigurationError(f"{plan.name}: unit and better of {part.metric} are known; leave them out")
        known = controller_names(described.scenario)
        for name in (part.baseline, *part.others):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f" (there are: {', '.join(known)})"
                raise ConfigurationError(f"{plan.name}: there is no baseline {name!r}{hint}")
        return cls(plan, described, horizon_of(plan, described.scenario.horizon), traffic_metric(part.metric))

    @property
    def span(self) -> str:
        """As the protocol says."""
        return f"over {self.horizon.measured:,g} s with demand and {self.horizon.drain:,g} s after it"

    def check(self) -> None:
        """As the protocol says."""
        for name in (self.plan.part.baseline, *self.plan.part.others):
            self.baseline(name)
        if any(spec.config.environment.wrappers for spec in self.plan.specs()):
            raise ConfigurationError(
                f"{self.plan.name}: agent.environment.wrappers are not applied in the simulator; compare such an agent as an "
                "environment of your own (module:Class)"
            )

    def baseline(self, name: str) -> Player:
        """As the protocol says."""
        return baseline_player(self.described, name, self.horizon, self.metric.name)

    def agent(self, agent: Agent) -> Player:
        """As the protocol says."""
        return agent_player(self.described, agent, self.horizon, self.metric.name)

    def pictures(self, played: Mapping[str, list[Played]]) -> tuple[tuple[SpaceTime, ...], tuple[Queues, ...]]:
        """The rule's baseline, the best one and the agent on the first seed; queues of all arms."""
        baselines = [name for name in played if name != "agent"]
        shown = dict.fromkeys([self.plan.part.baseline, best_of(played, baselines, True), "agent"])
        first = [space_time(name, played[name][0][0].seed, self.described, played[name][0][1]) for name in shown]
        lines = [queues(name, self.described, [rows for _, rows in own]) for name, own in played.items()]
        return tuple(first), tuple(lines)

    def facts(self) -> dict[str, Any]:
        """As the protocol says."""
        horizon = self.horizon
        return {
            "warm-up, s": horizon.warm_up,
            "judged with demand, s": horizon.measured,
            "judged after the demand, s": horizon.drain,
            "decision interval, s": DECISION,
            "decisions": round((horizon.measured + horizon.drain) / DECISION),
        }
