"""What a checkpoint costs, beside Stable-Baselines3's own CheckpointCallback in the same training.

    python benchmarks/checkpoint_cost.py [--quick] [--json FILE]

One training per case is stopped at its cuts in turn by SB3's callback with `save_replay_buffer=True` and by the keeper as
`RotatingCheckpointCallback` uses it; between them training goes on and the replay buffer gets so many new rows. SB3's save does not
call fsync, ours does, in a background thread. Beside both stand the copy of the new rows' bytes in memory, and writing and
syncing as many bytes as our checkpoint has. Every file is written below the current folder, which must be on the disk in question.
"""

from __future__ import annotations

import os
import resource
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
from machine import Target, arguments, describe_machine, finish, machine_line, median, paired_ratio, table
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create
from unbroken.store.repository import CheckpointRecord
from unbroken.store.segments import Segment

CHECKPOINTS = 20
"""Bytes are summed over so many checkpoints after the first, merges of segments included."""


@dataclass(frozen=True)
class Case:
    """A training whose checkpoints are measured: rows that a checkpoint finds new, and the promised ratios to SB3's.

    `stall` may also be met by a stall of at most `stall_ms`.
    """

    name: str
    start: Callable[[RotatingCheckpointCallback], BaseAlgorithm]
    rows: int
    new_rows: int
    stall: float | None
    size: float | None
    stall_ms: float = 0.0


@dataclass
class Measured:
    """Seconds of every repetition, and bytes of every checkpoint."""

    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    committed: list[float] = field(default_factory=list)
    writer_cpu: list[float] = field(default_factory=list)
    memory_copy: list[float] = field(default_factory=list)
    write_and_sync: list[float] = field(default_factory=list)
    their_bytes: list[int] = field(default_factory=list)
    our_bytes: list[int] = field(default_factory=list)


class Turns(BaseCallback):
    """At cuts SB3's way and ours in turn, until each has had `repetitions` turns and ours `CHECKPOINTS` in all."""

    def __init__(
        self, case: Case, theirs: CheckpointCallback, ours: RotatingCheckpointCallback, repetitions: int
    ) -> None:
        super().__init__()
        self.measured = Measured()
        self._case = case
        self._theirs = theirs
        self._ours = ours
        self._repetitions = repetitions + 1
        self._numbers = np.random.default_rng(1)
        self._started = 0.0
        self._written = 0
        self._copy: np.ndarray | None = None
        self._after_commit = ours.keeper._after_commit
        ours.keeper._after_commit = self._stamp
        self._before_commit = ours.keeper._before_commit
        ours.keeper._before_commit = self._begin
        self._writer_cpu = 0.0
        self._write_segment = ours.repository.segments.write
        ours.repository.segments.write = self._count  # type: ignore[method-assign]

    def _init_callback(self) -> None:
        self._theirs.init_callback(self.model)

    def _count(self, *words: Any) -> Segment:
        segment = self._write_segment(*words)
        self._written += segment.size
        return segment

    def _begin(self) -> None:
        self._writer_cpu = time.thread_time()
        self._before_commit()

    def _stamp(self, record: CheckpointRecord, facts: Mapping[str, Any]) -> None:
        # runs in the writing thread
        self.measured.committed.append(time.perf_counter() - self._started)
        self.measured.writer_cpu.append(time.thread_time() - self._writer_cpu)
        self._after_commit(record, facts)
        self.measured.our_bytes.append(record.size + self._written)
        self._written = 0

    def _on_rollout_start(self) -> None:
        # each way finds nobody else's save under way
        if not self._ours.keeper.drain(0) or self._done:
            return
        grow(self.model, self._case.new_rows, self._numbers)
        self._save_ours()
        if len(self.measured.theirs) < self._repetitions:
            self._ours.keeper.drain(60)
            self._save_theirs()
            self._limits()

    @property
    def _done(self) -> bool:
        return len(self.measured.our_bytes) > CHECKPOINTS and len(self.measured.theirs) >= self._repetitions

    def _save_theirs(self) -> None:
        self._theirs.num_timesteps = self.model.num_timesteps
        started = time.perf_counter()
        self._theirs._on_step()
        self.measured.theirs.append(time.perf_counter() - started)
        files = list(Path(self._theirs.save_path).iterdir())
        self.measured.their_bytes.append(sum(file.stat().st_size for file in files))
        for file in files:
            file.unlink()

    def _save_ours(self) -> None:
        self._started = time.perf_counter()
        self._ours.keeper.save(lambda: self._ours.snapshot("rollout"))
        self.measured.ours.append(time.perf_counter() - self._started)

    def _limits(self) -> None:
        """A copy of as many bytes as the new rows have, and a synced file of as many as our checkpoint."""
        content = np.zeros(new_bytes(self.model, self._case.new_rows), np.uint8)
        if self._copy is None:
            self._copy = content.copy()
        started = time.perf_counter()
        np.copyto(self._copy, content)
        self.measured.memory_copy.append(time.perf_counter() - started)
        noise = self._numbers.bytes(self.measured.our_bytes[-1])
        started = time.perf_counter()
        with open(Path(self._theirs.save_path) / "limit", "wb", buffering=0) as file:
            file.write(noise)
            os.fsync(file.fileno())
        self.measured.write_and_sync.append(time.perf_counter() - started)
        Path(file.name).unlink()

    def _on_step(self) -> bool:
        return not self._done

    def without_first(self) -> Measured:
        """The measurements without the first turn of each: it pays for imports, first allocations and the whole buffer."""
        for values in vars(self.measured).values():
            del values[0]
        return self.measured


class Frames(gymnasium.Env):
    """Stacks of four frames of 84 x 84: a few bright squares that move over black, or noise; an episode is 100 steps."""

    observation_space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gymnasium.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A new episode."""
        super().reset(seed=seed)
        self.count = 0
        return np.zeros((4, 84, 84), np.uint8), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The next frame."""
        self.count += 1
        return np.zeros((4, 84, 84), np.uint8), 1.0, self.count >= 100, False, {}


def frames(count: int, noise: bool, numbers: np.random.Generator) -> np.ndarray:
    """So many frames that follow one another, (count, 84, 84), uint8."""
    if noise:
        return numbers.integers(0, 256, (count, 84, 84), dtype=np.uint8)
    found = np.zeros((count, 84, 84), np.uint8)
    places = numbers.integers(0, 76, (6, 2))
    for frame in found:
        places = np.clip(places + numbers.integers(-2, 3, (6, 2)), 0, 76)
        for row, column in places:
            frame[row : row + 8, column : column + 8] = 200
    return found


def grow(model: Any, rows: int, numbers: np.random.Generator) -> None:
    """As if training had added so many rows since the last checkpoint."""
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None or not rows:
        return
    places = np.arange(buffer.pos, buffer.pos + rows) % buffer.buffer_size
    if buffer.observations.dtype == np.uint8:
        planes = frames(rows + 4, model.noise, numbers)
        stacks = np.lib.stride_tricks.sliding_window_view(planes, 4, axis=0).transpose(0, 3, 1, 2)
        buffer.observations[places, 0], buffer.next_observations[places, 0] = stacks[:rows], stacks[1 : rows + 1]
    else:
        for array in (buffer.observations, buffer.next_observations):
            array[places] = numbers.normal(size=(rows, *array.shape[1:]))
        # zero is an action in any space
        buffer.actions[places] = 0
    buffer.rewards[places] = numbers.normal(size=(rows, 1))
    buffer.full = buffer.full or buffer.pos + rows >= buffer.buffer_size
    buffer.pos = (buffer.pos + rows) % buffer.buffer_size
    model.num_timesteps += rows


def new_bytes(model: Any, rows: int) -> int:
    """Bytes of so many rows, or of the parameters where there are no rows."""
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return 3 * sum(value.nbytes for value in model.policy.state_dict().values())
    parts = (
        buffer.observations,
        buffer.next_observations,
        buffer.actions,
        buffer.rewards,
        buffer.dones,
        buffer.timeouts,
    )
    return rows * sum(part[0].nbytes for part in parts)


def ppo(checkpoints: RotatingCheckpointCallback) -> BaseAlgorithm:
    """PPO with SB3's two layers of 64 on CartPole."""
    env = make_vec_env("CartPole-v1", seed=0)
    return resume_or_create(PPO, "MlpPolicy", env, checkpoints, n_steps=256, n_epochs=2, seed=0, device="cpu")


def vectors(cls: type, env_id: str, filled: int) -> Callable[[RotatingCheckpointCallback], BaseAlgorithm]:
    """An algorithm with SB3's default buffer of a million rows, so many of them filled."""

    def start(checkpoints: RotatingCheckpointCallback) -> BaseAlgorithm:
        words = {"buffer_size": 1_000_000, "learning_starts": 0, "seed": 0, "device": "cpu"}
        model = resume_or_create(cls, "MlpPolicy", make_vec_env(env_id, seed=0), checkpoints, **words)
        grow(model, filled, np.random.default_rng(0))
        return model

    return start


def pictures(noise: bool) -> Callable[[RotatingCheckpointCallback], BaseAlgorithm]:
    """DQN with a full buffer of 20,000 transitions of stacked frames."""

    def start(checkpoints: RotatingCheckpointCallback) -> BaseAlgorithm:
        words = {"buffer_size": 20_000, "learning_starts": 10**9, "seed": 0, "device": "cpu"}
        model = resume_or_create(DQN, "CnnPolicy", make_vec_env(Frames, seed=0), checkpoints, **words)
        model.noise = noise  # type: ignore[attr-defined]
        grow(model, 20_000, np.random.default_rng(0))
        return model

    return start


CASES = (
    Case("PPO 64x64", ppo, 0, 0, 1 / 5, 1.0, stall_ms=1.0),
    Case("DQN, 10k of 1M rows new", vectors(DQN, "CartPole-v1", 1_000_000), 1_000_000, 10_000, 1 / 30, 1 / 60),
    Case("DQN, 10k of 100k rows new", vectors(DQN, "CartPole-v1", 100_000), 100_000, 10_000, None, None),
    Case("SAC, 10k of 1M rows new", vectors(SAC, "Pendulum-v1", 1_000_000), 1_000_000, 10_000, 1 / 30, 1 / 60),
    Case("DQN 84x84x4 sprites, 500 of 20k new", pictures(False), 20_000, 500, 1 / 80, 1 / 80),
    Case("DQN 84x84x4 noise, 500 of 20k new", pictures(True), 20_000, 500, 1 / 80, 1 / 25),
)


def measure(case: Case, folder: Path, repetitions: int) -> Measured:
    """Run the training of a case and take turns at its cuts."""
    theirs = CheckpointCallback(1, str(folder / "sb3"), save_replay_buffer=True)
    ours = RotatingCheckpointCallback(10**12, folder / "ours", verbose=0)
    model = case.start(ours)
    turns = Turns(case, theirs, ours, repetitions)
    # what is measured here is no part of the training
    ours.stateless = (turns,)
    model.learn(10**12, CallbackList([turns, ours]))
    return turns.without_first()


def row_of(case: Case, found: Measured) -> tuple[list[str], list[Target]]:
    """The line of a case and its promises."""
    count = len(found.theirs)
    stall = paired_ratio(found.ours[:count], found.theirs)
    ours_mb, theirs_mb = (sum(v) / len(v) / 1e6 for v in (found.our_bytes[:CHECKPOINTS], found.their_bytes))
    targets = []
    if case.stall is not None:
        met_by_time = 1e3 * median(found.ours) <= case.stall_ms
        targets.append(
            Target(f"{case.name}: stall / SB3's", min(stall, case.stall) if met_by_time else stall, case.stall)
        )
    if case.size is not None:
        targets.append(Target(f"{case.name}: bytes / SB3's", ours_mb / theirs_mb, case.size))
    worst = (f"{1e3 * median(v):.2f} / {1e3 * max(v):.2f}" for v in (found.theirs, found.ours))
    other = (found.memory_copy, found.committed, found.writer_cpu, found.write_and_sync)
    times = (f"{1e3 * median(values):.2f}" for values in other)
    sizes = (f"{theirs_mb:.2f}", f"{ours_mb:.3f}", f"1/{theirs_mb / ours_mb:.0f}")
    return [case.name, *worst, f"1/{1 / stall:.0f}" if stall < 0.5 else f"{stall:.2f}", *times, *sizes], targets


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
        row, promised = row_of(case, found)
        rows.append(row)
        targets += promised
        raw[case.name] = vars(found)
    head = (
        "case",
        "SB3 ms",
        "ours ms",
        "ratio",
        "copy ms",
        "committed ms",
        "writer CPU ms",
        "write+fsync ms",
        "SB3 MB",
        "ours MB",
        "ratio",
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    text = "\n".join(
        [
            machine_line(machine),
            f"SB3, ours: stall of the training thread per checkpoint, median / worst of {repetitions} turns.",
            "ratio: median of neighbours. copy: the new rows in memory. committed: from the cut to a durable file while training",
            "goes on. writer CPU: of the background thread. write+fsync: a file of our checkpoint's size. MB: mean of",
            f"{CHECKPOINTS} checkpoints, merges included.",
            "",
            table(head, rows),
            "",
            f"Peak memory of the process: {peak:.0f} MB, the largest buffer's 1,129 MB and SB3's pickle included.",
            "",
        ]
    )
    return finish(text, {"machine": machine, "repetitions": repetitions, "cases": raw}, targets, options)


if __name__ == "__main__":
    sys.exit(main())
