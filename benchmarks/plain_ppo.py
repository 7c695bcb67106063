"""The PPO in plain PyTorch beside Stable-Baselines3's: the same network, epochs and minibatches, eight copies of CartPole.

    python benchmarks/plain_ppo.py [--quick] [--json FILE]

Both trainings of a seed run in one process with one torch thread and take turns, rollout by rollout with its update, so that
what else the machine does slows both. Each stops when the mean return of its last 50 training episodes reaches the goal, or its
budget is spent. Times are sums of its own turns; making environments and networks is in neither.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
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
AIM = 2.5
SAME = {"n_steps": 128, "n_epochs": 10, "gamma": 0.99, "gae_lambda": 0.95, "clip_range": 0.2}
RATE = 1e-3
# SB3's default, where PyTorch's overhead rules, and one where arithmetic does, which is the same for both
BATCHES = (64, 256)


@dataclass
class Course:
    """One training as it was: seconds of each turn, and the step at which the goal was reached."""

    budget: int
    turns: list[float] = field(default_factory=list)
    step: int = 0
    goal_step: int | None = None

    def add(self, seconds: float, step: int, returns: Sequence[float]) -> None:
        """Count a turn that took so many seconds and ended at `step`."""
        self.turns.append(seconds)
        self.step = step
        if len(returns) >= WINDOW and np.mean(returns[-WINDOW:]) >= GOAL:
            self.goal_step = step

    @property
    def over(self) -> bool:
        """Whether the goal is reached or the budget spent."""
        return self.goal_step is not None or self.step >= self.budget

    @property
    def seconds(self) -> float:
        """Time to the goal; where it was not reached, the whole time."""
        return sum(self.turns)

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second, by the median turn."""
        return self.step / len(self.turns) / median(self.turns)


class Ours:
    """The PPO in plain PyTorch, its environments wrapped for capture as in a run."""

    def __init__(self, seed: int, batch_size: int, budget: int) -> None:
        self.course = Course(budget)
        copies = Copies([gymnasium.make(ENVIRONMENT) for _ in range(COPIES)], seed)
        self._ppo = PPO(
            copies, PPOSettings(learning_rate=RATE, batch_size=batch_size, net_arch=(64, 64), **SAME), seed=seed
        )

    def turn(self) -> None:
        """One rollout and its update."""
        started = time.perf_counter()
        self._ppo.learn(self._ppo.timestep + 1)
        self.course.add(time.perf_counter() - started, self._ppo.timestep, self._ppo.episode_rewards)


class Turns(BaseCallback):
    """Gives the other its turn where a rollout of SB3's begins, which is after the update before."""

    def __init__(self, other: Ours, budget: int) -> None:
        super().__init__()
        self.course = Course(budget)
        self._other = other
        self._returns: list[float] = []
        self._began: float | None = None

    def _on_rollout_start(self) -> None:
        if self._began is not None:
            self.course.add(time.perf_counter() - self._began, self.num_timesteps, self._returns)
        if not self._other.course.over:
            self._other.turn()
        self._began = time.perf_counter()

    def _on_step(self) -> bool:
        self._returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return not self.course.over


def train(seed: int, batch_size: int, budget: int) -> tuple[Course, Course]:
    """Both trainings of one seed: SB3's and ours."""
    ours = Ours(seed, batch_size, budget)
    turns = Turns(ours, budget)
    words: dict[str, Any] = {**SAME, "batch_size": batch_size, "learning_rate": RATE, "seed": seed, "device": "cpu"}
    env = make_vec_env(ENVIRONMENT, COPIES, seed=seed)
    model = SB3PPO("MlpPolicy", env, policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}}, **words)
    model.learn(10**9, turns)
    while not ours.course.over:
        ours.turn()
    return turns.course, ours.course


def row(name: str, batch_size: int, courses: Sequence[Course]) -> list[str]:
    """One line of the table."""
    steps = [course.goal_step for course in courses if course.goal_step is not None]
    return [
        name,
        str(batch_size),
        f"{median([course.steps_per_second for course in courses]):,.0f}",
        f"{median([course.seconds for course in courses]):.1f}",
        f"{median(steps):,.0f}" if steps else "-",
        f"{len(steps)} of {len(courses)}",
    ]


def ratios(pairs: Sequence[tuple[Course, Course]]) -> tuple[float, float]:
    """Seconds per step and seconds to the goal, ours over theirs: medians over neighbouring turns, and over seeds."""
    neighbours = [(o, t) for theirs, ours in pairs for o, t in zip(ours.turns, theirs.turns, strict=False)]
    totals = [(ours.seconds, theirs.seconds) for theirs, ours in pairs]
    return paired_ratio(*zip(*neighbours, strict=True)), paired_ratio(*zip(*totals, strict=True))


def main() -> int:
    """Measure and print the table."""
    options = arguments(__doc__.partition("\n")[0])
    # such small networks train no faster with more, and other processes' load would cost much more
    torch.set_num_threads(1)
    seeds, budget = (2, 8_192) if options.quick else (5, 150_000)
    machine = describe_machine()
    # the first turns pay for imports and first allocations
    train(99, BATCHES[0], 2_048)
    rows, lines, targets = [], [], []
    raw: dict[str, Any] = {"machine": machine, "settings": {**SAME, "learning_rate": RATE}}
    for batch_size in BATCHES:
        pairs = [train(seed, batch_size, budget) for seed in range(seeds)]
        rows.append(row("Stable-Baselines3", batch_size, [theirs for theirs, _ in pairs]))
        rows.append(row("unbroken, plain PyTorch", batch_size, [ours for _, ours in pairs]))
        speed, patience = ratios(pairs)
        faster = (
            f"{1 / speed:.2f} times the steps per second (aim {AIM:g}), {1 / patience:.2f} times as fast to the goal"
        )
        lines.append(f"batch size {batch_size}: {faster}")
        targets.append(Target(f"batch size {batch_size}: seconds per step, ours / SB3's", speed, LIMIT))
        targets.append(Target(f"batch size {batch_size}: seconds to the goal, ours / SB3's", patience, LIMIT))
        raw[f"batch {batch_size}"] = [{"sb3": vars(theirs), "plain": vars(ours)} for theirs, ours in pairs]
    settings = ", ".join(f"{name} {value}" for name, value in raw["settings"].items())
    head = ("PPO", "batch", "steps/s", "s to goal", "steps to goal", "reached")
    text = "\n".join(
        [
            machine_line(machine),
            f"{ENVIRONMENT}, {COPIES} copies, networks 64x64, {settings}; {seeds} seeds, medians.",
            f"goal: mean return of {WINDOW} training episodes >= {GOAL:g}, within {budget:,} steps.",
            "",
            table(head, rows),
            "",
            *lines,
            "",
        ]
    )
    return finish(text, raw, targets, options)


if __name__ == "__main__":
    sys.exit(main())
