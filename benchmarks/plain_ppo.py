"""The PPO in plain PyTorch beside Stable-Baselines3's: the same network, epochs and minibatches, eight copies of CartPole.

    python benchmarks/plain_ppo.py [--quick] [--json FILE]

Seed by seed the two train in turn in one process with one torch thread, until the mean return of the last 50 training episodes
reaches the goal or the budget is spent. Steps per second are over the whole training but its first rollout, seconds to the goal
from the first step. Making environments and networks is in neither.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from machine import Target, arguments, describe_machine, finish, machine_line, median, paired_ratio, table
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from unbroken.learners.ppo import PPO, Copies, PPOSettings

ENVIRONMENT = "CartPole-v1"
COPIES = 8
GOAL = 450.0
WINDOW = 50
LIMIT = 1 / 1.3
AIM = 1 / 2.5
SAME = {"n_steps": 128, "batch_size": 256, "n_epochs": 10, "gamma": 0.99, "gae_lambda": 0.95, "clip_range": 0.2}
RATE = 1e-3


class GoalReached(Exception):
    """Ends a training of ours."""


@dataclass
class Clock:
    """Watches one training: when the goal came, and how many steps took how long after the first rollout."""

    budget: int
    started: float = 0.0
    warm: tuple[float, int] | None = None
    goal: tuple[float, int] | None = None
    ended: tuple[float, int] = (0.0, 0)

    def look(self, step: int, returns: Sequence[float]) -> bool:
        """To be called after every rollout with its update; returns whether the training goes on."""
        now = time.perf_counter()
        self.warm = self.warm or (now, step)
        self.ended = (now, step)
        if len(returns) >= WINDOW and np.mean(returns[-WINDOW:]) >= GOAL:
            self.goal = (now - self.started, step)
        return self.goal is None and step < self.budget

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second from the end of the first rollout's update."""
        assert self.warm is not None
        return (self.ended[1] - self.warm[1]) / (self.ended[0] - self.warm[0])


class Watch(BaseCallback):
    """Looks at the clock where a rollout of SB3's begins, which is after the update before."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._returns: list[float] = []
        self._goes_on = True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps:
            self._goes_on = self._clock.look(self.num_timesteps, self._returns)

    def _on_step(self) -> bool:
        self._returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return self._goes_on


def theirs(seed: int, budget: int) -> Clock:
    """SB3's PPO."""
    clock = Clock(budget)
    env = make_vec_env(ENVIRONMENT, COPIES, seed=seed)
    words: dict[str, Any] = {**SAME, "learning_rate": RATE, "seed": seed, "device": "cpu"}
    model = SB3PPO("MlpPolicy", env, policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}}, **words)
    clock.started = time.perf_counter()
    model.learn(10**9, Watch(clock))
    return clock


def ours(seed: int, budget: int) -> Clock:
    """The PPO in plain PyTorch, its environments wrapped for capture as in a run."""
    clock = Clock(budget)
    copies = Copies([gymnasium.make(ENVIRONMENT) for _ in range(COPIES)], seed)
    ppo = PPO(copies, PPOSettings(learning_rate=RATE, net_arch=(64, 64), **SAME), seed=seed)

    def look(_: dict[str, float]) -> None:
        if not clock.look(ppo.timestep, ppo.episode_rewards):
            raise GoalReached

    clock.started = time.perf_counter()
    with contextlib.suppress(GoalReached):
        ppo.learn(10**9, after_update=look)
    return clock


def reached(clocks: Sequence[Clock]) -> list[float]:
    """Seconds to the goal; where it was not reached, the whole time counts."""
    return [clock.goal[0] if clock.goal else clock.ended[0] - clock.started for clock in clocks]


def row(name: str, clocks: Sequence[Clock]) -> list[str]:
    """One line of the table."""
    steps = [clock.goal[1] for clock in clocks if clock.goal]
    return [
        name,
        f"{median([clock.steps_per_second for clock in clocks]):,.0f}",
        f"{median(reached(clocks)):.1f}",
        f"{median(steps):,.0f}" if steps else "-",
        f"{len(steps)} of {len(clocks)}",
    ]


def main() -> int:
    """Measure and print the table."""
    options = arguments(__doc__.partition("\n")[0])
    # such small networks train no faster with more, and other processes' load would cost much more
    torch.set_num_threads(1)
    seeds, budget = (2, 20_000) if options.quick else (5, 150_000)
    machine = describe_machine()
    pairs: list[tuple[Clock, Clock]] = []
    # the first of each pays for imports and first allocations
    theirs(99, 4_096), ours(99, 4_096)
    for seed in range(seeds):
        pairs.append((theirs(seed, budget), ours(seed, budget)))
    sb3, plain = ([pair[k] for pair in pairs] for k in range(2))
    speed = paired_ratio([c.steps_per_second for c in sb3], [c.steps_per_second for c in plain])
    patience = paired_ratio(reached(plain), reached(sb3))
    text = "\n".join(
        [
            machine_line(machine),
            f"{ENVIRONMENT}, {COPIES} copies, networks 64x64, {SAME}, learning rate {RATE}; {seeds} seeds, medians.",
            f"goal: mean return of {WINDOW} training episodes >= {GOAL:g}, within {budget:,} steps.",
            "",
            table(
                ("PPO", "steps/s", "s to goal", "steps to goal", "reached"),
                [row("Stable-Baselines3", sb3), row("unbroken, plain PyTorch", plain)],
            ),
            "",
            f"{1 / speed:.2f} times the steps per second (aim {1 / AIM:g}), {1 / patience:.2f} times as fast to the goal",
            "",
        ]
    )
    targets = [
        Target("seconds per step, ours / SB3's", speed, LIMIT),
        Target("seconds to the goal, ours / SB3's", patience, LIMIT),
    ]
    raw = {
        name: [{**vars(clock), "steps_per_second": clock.steps_per_second} for clock in clocks]
        for name, clocks in (("sb3", sb3), ("plain", plain))
    }
    return finish(text, {"machine": machine, "settings": {**SAME, "learning_rate": RATE}, **raw}, targets, options)


if __name__ == "__main__":
    sys.exit(main())
