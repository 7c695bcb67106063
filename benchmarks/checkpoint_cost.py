"""What a checkpoint costs the training thread, beside Stable-Baselines3's own CheckpointCallback in the same training.

    python benchmarks/checkpoint_cost.py [--quick] [--json FILE]

One training per case is stopped at its cuts in turn by SB3's callback, by the keeper as `RotatingCheckpointCallback` uses
it, and by the keeper waiting for the disk; between them training goes on. SB3's save does not call fsync, ours does, in a
background thread. Every file is written below the current folder, which must be on the disk in question.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from machine import Target, arguments, describe_machine, finish, machine_line, median, p90, paired_ratio, table
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create
from unbroken.store.repository import CheckpointRecord


@dataclass(frozen=True)
class Case:
    """A training whose checkpoints are measured; `limit` is the promised ratio of stalls, None where only reported."""

    name: str
    start: Callable[[RotatingCheckpointCallback], BaseAlgorithm]
    cuts_between: int
    limit: float | None


@dataclass
class Measured:
    """Seconds of every repetition, and the bytes of one checkpoint."""

    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    background: list[float] = field(default_factory=list)
    writer_cpu: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    their_bytes: int = 0
    our_bytes: int = 0


class Turns(BaseCallback):
    """At every `between`-th cut one of the three ways to save, in turn, until each has had `repetitions` turns."""

    def __init__(
        self, theirs: CheckpointCallback, ours: RotatingCheckpointCallback, between: int, repetitions: int
    ) -> None:
        super().__init__()
        self.measured = Measured()
        self._theirs = theirs
        self._ours = ours
        self._between = between
        self._left = 3 * (repetitions + 1)
        self._turns = 3 * (repetitions + 1)
        self._cuts = 0
        self._started = 0.0
        self._committed = (0.0, 0.0)
        self._after_commit = ours.keeper._after_commit
        ours.keeper._after_commit = self._stamp

    def _init_callback(self) -> None:
        self._theirs.init_callback(self.model)

    def _stamp(self, record: CheckpointRecord, facts: Mapping[str, Any]) -> None:
        # runs in the writing thread, which is new for each save
        self._committed = (time.perf_counter(), time.thread_time())
        self._after_commit(record, facts)

    def _on_rollout_start(self) -> None:
        self._cuts += 1
        # each way finds nobody else's save under way, and the training warm again
        if self._cuts < self._between or not self._ours.keeper.drain(0) or not self._left:
            return
        self._cuts = 0
        self._left -= 1
        way = (self._save_theirs, self._save_ours, self._save_ours_and_wait)[(self._turns - 1 - self._left) % 3]
        way()

    def _save_theirs(self) -> None:
        self._theirs.num_timesteps = self.model.num_timesteps
        started = time.perf_counter()
        self._theirs._on_step()
        self.measured.theirs.append(time.perf_counter() - started)
        files = list(Path(self._theirs.save_path).iterdir())
        self.measured.their_bytes = sum(file.stat().st_size for file in files)
        for file in files:
            file.unlink()

    def _save_ours(self) -> None:
        started = time.perf_counter()
        self._ours.keeper.save(lambda: self._ours.snapshot("rollout"))
        self.measured.ours.append(time.perf_counter() - started)
        self._started = started

    def _save_ours_and_wait(self) -> None:
        # the commit in the background has been under way while training went on; its end was stamped
        self.measured.background.append(self._committed[0] - self._started)
        self.measured.writer_cpu.append(self._committed[1])
        started = time.perf_counter()
        self._ours.keeper.save(lambda: self._ours.snapshot("rollout"), wait=True)
        self.measured.waited.append(time.perf_counter() - started)
        assert self._ours.keeper.last_record is not None
        self.measured.our_bytes = self._ours.keeper.last_record.size

    def _on_step(self) -> bool:
        return self._left > 0

    def without_first(self) -> Measured:
        """The measurements without the first turn of each: it pays for imports and first allocations."""
        found = self.measured
        for values in (found.theirs, found.ours, found.background, found.writer_cpu, found.waited):
            del values[0]
        return found


class Frames(gymnasium.Env):
    """Noise of the size of stacked Atari frames, 84 x 84 x 4; an episode is 100 steps."""

    observation_space = gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = gymnasium.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A new episode."""
        super().reset(seed=seed)
        self.count = 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The next frame."""
        self.count += 1
        return self._frame(), 1.0, self.count >= 100, False, {}

    def _frame(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (84, 84, 4), dtype=np.uint8)


def ppo(checkpoints: RotatingCheckpointCallback) -> BaseAlgorithm:
    """PPO with SB3's two layers of 64 on CartPole."""
    env = make_vec_env("CartPole-v1", seed=0)
    return resume_or_create(PPO, "MlpPolicy", env, checkpoints, n_steps=256, n_epochs=2, seed=0, device="cpu")


def dqn(filled: int) -> Callable[[RotatingCheckpointCallback], BaseAlgorithm]:
    """DQN on CartPole with SB3's default buffer of a million rows, so many of them filled."""

    def start(checkpoints: RotatingCheckpointCallback) -> BaseAlgorithm:
        env = make_vec_env("CartPole-v1", seed=0)
        model = resume_or_create(
            DQN, "MlpPolicy", env, checkpoints, buffer_size=1_000_000, learning_starts=0, seed=0, device="cpu"
        )
        fill(model, filled)
        return model

    return start


def frames(checkpoints: RotatingCheckpointCallback) -> BaseAlgorithm:
    """DQN with a buffer of 5,000 transitions of frames, full."""
    env = make_vec_env(Frames, seed=0)
    words = {"buffer_size": 5_000, "learning_starts": 1_000_000, "seed": 0, "device": "cpu"}
    model = resume_or_create(DQN, "CnnPolicy", env, checkpoints, **words)
    fill(model, 5_000)
    return model


def fill(model: Any, rows: int) -> None:
    """Put noise into the first rows of a replay buffer, as if so many transitions had been added."""
    buffer = model.replay_buffer
    numbers = np.random.default_rng(0)
    for array in (buffer.observations, buffer.next_observations):
        if array.dtype == np.uint8:
            array[:rows] = numbers.integers(0, 256, array[:rows].shape, dtype=np.uint8)
        else:
            array[:rows] = numbers.normal(size=array[:rows].shape)
    # touch every page that SB3 would have touched
    for array in (buffer.actions, buffer.rewards, buffer.dones, buffer.timeouts):
        array[:rows] = 0
    buffer.rewards[:rows] = 1
    buffer.full = rows >= buffer.buffer_size
    buffer.pos = rows % buffer.buffer_size


CASES = (
    Case("PPO 64x64, CartPole", ppo, 2, 1.0),
    Case("DQN CartPole, 10k of 1M rows", dqn(10_000), 25, 0.5),
    Case("DQN CartPole, 1M of 1M rows", dqn(1_000_000), 25, 0.5),
    Case("DQN 84x84x4, 5k frames full", frames, 10, None),
)


def measure(case: Case, folder: Path, repetitions: int) -> Measured:
    """Run the training of a case and take turns at its cuts."""
    theirs = CheckpointCallback(1, str(folder / "sb3"), save_replay_buffer=True)
    ours = RotatingCheckpointCallback(10**12, folder / "ours", verbose=0)
    model = case.start(ours)
    turns = Turns(theirs, ours, case.cuts_between, repetitions)
    model.learn(10**9, CallbackList([turns, ours]))
    return turns.without_first()


def main() -> int:
    """Measure all cases and print the table."""
    options = arguments(__doc__.partition("\n")[0])
    # such small networks train no faster with more, and other processes' load would cost much more
    torch.set_num_threads(1)
    repetitions = 3 if options.quick else 11
    machine = describe_machine()
    rows, targets, raw = [], [], {}
    for case in CASES:
        folder = Path(tempfile.mkdtemp(prefix=".checkpoint-cost-", dir=Path.cwd()))
        try:
            found = measure(case, folder, repetitions)
        finally:
            shutil.rmtree(folder)
        ratio = paired_ratio(found.ours, found.theirs)
        raw[case.name] = {**vars(found), "ratio": ratio, "ratio_waited": paired_ratio(found.waited, found.theirs)}
        rows.append(
            [
                case.name,
                *(f"{1e3 * median(v):.2f} / {1e3 * p90(v):.2f}" for v in (found.theirs, found.ours)),
                f"{ratio:.2f}",
                "-" if case.limit is None else f"<= {case.limit:g}",
                *(f"{1e3 * median(v):.0f}" for v in (found.background, found.writer_cpu, found.waited)),
                f"{raw[case.name]['ratio_waited']:.2f}",
                *(f"{size / 1e6:.2f}" for size in (found.their_bytes, found.our_bytes)),
            ]
        )
        if case.limit is not None:
            targets.append(Target(f"{case.name}: stall / SB3's save", ratio, case.limit))
    stalls = ("SB3 ms", "ours ms", "ratio", "target")
    head = ("case", *stalls, "committed ms", "writer CPU ms", "waited ms", "ratio", "SB3 MB", "ours MB")
    text = "\n".join(
        [
            machine_line(machine),
            f"Stall of the training thread per checkpoint, median / p90 of {repetitions} turns; ratios are medians of neighbours.",
            "committed: from the cut to a durable file while training goes on; writer CPU: of the background thread until then,",
            "the most that it can take from training by the interpreter lock; waited: the stall if training waits for the file.",
            "",
            table(head, rows),
            "",
        ]
    )
    return finish(text, {"machine": machine, "repetitions": repetitions, "cases": raw}, targets, options)


if __name__ == "__main__":
    sys.exit(main())
