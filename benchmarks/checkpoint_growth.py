"""How the cost of a checkpoint grows: with the replay buffer, with the network, for the iteration beside it, and for the restore.

    python benchmarks/checkpoint_growth.py [--quick] [--json FILE]

Beside the stall stands the copy of the same tensors in memory; beside the restore, reading and hashing the same files, which any
verified restore must do, once from the disk and once from the page cache. All that is compared takes turns in one process.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_cost import grow, vectors
from machine import arguments, describe_machine, finish, machine_line, median, paired_ratio, table
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.env_util import make_vec_env

from unbroken.learners.stored import read_stored
from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create
from unbroken.store.checkpoint_file import CheckpointFile
from unbroken.store.checkpoint_writer import new_digest

Times = dict[str, list[float]]
BUFFERS = (10_000, 100_000, 1_000_000)
WIDTHS = (64, 256, 1024)
NEW_ROWS = 1_000


class AtCuts(BaseCallback):
    """Calls `deed(callback, turn)` at cuts where no save is under way, so many times."""

    def __init__(self, ours: RotatingCheckpointCallback, turns: int, deed: Callable[[AtCuts, int], None]) -> None:
        super().__init__()
        self.times: Times = {}
        self.ours = ours
        self._turns, self._deed, self._turn = turns, deed, 0

    def timed(self, name: str, deed: Callable[[], Any]) -> None:
        """Do it and note the time; the first turn pays for imports and first allocations and is left out."""
        started = time.perf_counter()
        deed()
        if self._turn:
            self.times.setdefault(name, []).append(time.perf_counter() - started)

    def save(self) -> None:
        """A save as the schedule would begin it."""
        self.ours.keeper.save(lambda: self.ours.snapshot("rollout"))

    def _on_rollout_start(self) -> None:
        if self._turn < self._turns and self.ours.keeper.drain(0):
            self._deed(self, self._turn)
            self._turn += 1

    def _on_step(self) -> bool:
        return self._turn < self._turns


def run(
    start: Callable[[RotatingCheckpointCallback], BaseAlgorithm], turns: int, deed: Callable[[AtCuts, int], None]
) -> Times:
    """Train in a folder of its own and return what was timed."""
    folder = Path(tempfile.mkdtemp(prefix=".checkpoint-growth-", dir=Path.cwd()))
    try:
        ours = RotatingCheckpointCallback(10**12, folder, verbose=0)
        model = start(ours)
        cuts = AtCuts(ours, turns + 1, deed)
        ours.stateless = (cuts,)
        model.learn(10**12, CallbackList([cuts, ours]))
        return cuts.times
    finally:
        shutil.rmtree(folder)


def ppo(width: int, n_steps: int = 256) -> Callable[[RotatingCheckpointCallback], BaseAlgorithm]:
    """PPO on CartPole with two layers of this width."""

    def start(ours: RotatingCheckpointCallback) -> BaseAlgorithm:
        words = {
            "n_steps": n_steps,
            "n_epochs": 1,
            "seed": 0,
            "device": "cpu",
            "policy_kwargs": {"net_arch": [width] * 2},
        }
        return resume_or_create(PPO, "MlpPolicy", make_vec_env("CartPole-v1", seed=0), ours, **words)

    return start


def by_buffer(turns: int) -> list[list[str]]:
    """The stall of DQN with buffers of several sizes, so many new rows each time."""
    numbers, rows = np.random.default_rng(1), []

    def deed(cuts: AtCuts, turn: int) -> None:
        grow(cuts.model, NEW_ROWS, numbers)
        cuts.timed("stall", cuts.save)

    for size in BUFFERS:
        found = run(vectors(DQN, "CartPole-v1", size), turns, deed)["stall"]
        rows.append([f"{size:,} rows", f"{1e3 * median(found):.2f}", f"{1e3 * max(found):.2f}"])
    return rows


def tensors_of(model: Any) -> list[torch.Tensor]:
    """Weights and Adam's moments."""
    moments = [value for state in model.policy.optimizer.state.values() for value in state.values()]
    return [value.detach() for value in [*model.policy.state_dict().values(), *moments]]


def by_width(turns: int) -> list[list[str]]:
    """The stall of PPO with networks of several widths, beside the copy of the same tensors into memory that is there."""
    rows = []
    for width in WIDTHS:
        deed = SaveAndCopy()
        found = run(ppo(width), turns, deed)
        stall, copy = found["stall"], found["copy"]
        cells = [f"{1e3 * median(stall):.2f}", f"{1e3 * max(stall):.2f}", f"{1e3 * median(copy):.2f}"]
        rows.append([f"2 x {width}", f"{sum(value.nbytes for value in deed.memory) / 1e6:.2f}", *cells])
    return rows


class SaveAndCopy:
    """A save, and the copy of the same tensors into memory that is there."""

    def __init__(self) -> None:
        self.memory: list[torch.Tensor] = []

    def __call__(self, cuts: AtCuts, turn: int) -> None:
        """One turn of both."""
        cuts.timed("stall", cuts.save)
        cuts.ours.keeper.drain(60)
        live = tensors_of(cuts.model)
        if len(self.memory) != len(live):
            self.memory = [value.clone() for value in live]
        cuts.timed("copy", lambda: torch._foreach_copy_(self.memory, live))


def beside(turns: int) -> list[list[str]]:
    """Iterations of PPO with and without a save that begins with them, in turn."""
    rows = []
    for width in WIDTHS[:2]:
        began: list[tuple[str, float]] = []
        times: Times = {"with": [], "without": []}

        def deed(cuts: AtCuts, turn: int, began: Any = began, times: Times = times) -> None:
            now = time.perf_counter()
            if began and turn > 2:
                name, at = began.pop()
                times[name].append(now - at)
            began[:] = [("with" if turn % 2 else "without", time.perf_counter())]
            if turn % 2:
                cuts.save()

        # long enough for the writing to end within the iteration
        run(ppo(width, 1024), 2 * turns + 3, deed)
        count = min(len(times["with"]), len(times["without"]))
        ratio = paired_ratio(times["with"][:count], times["without"][:count])
        cells = [f"{1e3 * median(times[name]):.1f}" for name in ("without", "with")]
        rows.append([f"2 x {width}, 1,024 steps", *cells, f"{ratio:.3f}"])
    return rows


def forget(files: Iterable[Path]) -> None:
    """Take files out of the page cache, as far as the system lets itself be told."""
    for path in files:
        number = os.open(path, os.O_RDONLY)
        os.fsync(number)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)


def read_and_hash(files: Iterable[Path]) -> None:
    """What no verified restore can do without."""
    for path in files:
        found = new_digest()
        found.update(path.read_bytes())
        found.digest()


def restores(turns: int) -> list[list[str]]:
    """Reading a checkpoint of DQN with a million rows into a model, cold and warm."""
    folder = Path(tempfile.mkdtemp(prefix=".checkpoint-growth-", dir=Path.cwd()))
    try:
        ours = RotatingCheckpointCallback(10**12, folder, verbose=0)
        model = vectors(DQN, "CartPole-v1", 1_000_000)(ours)
        model.learn(32, ours)
        files = [path for path in folder.rglob("*.zip") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        times: Times = {}
        for turn in range(turns + 1):
            for kind in ("cold", "warm"):
                for name, deed in (("read", lambda: read_and_hash(files)), ("restore", lambda: _restore(ours, model))):
                    if kind == "cold":
                        forget(files)
                    started = time.perf_counter()
                    deed()
                    if turn:
                        times.setdefault(f"{kind} {name}", []).append(time.perf_counter() - started)
        return [
            [kind, f"{size / 1e6:.1f}", *(f"{1e3 * median(times[f'{kind} {name}']):.0f}" for name in ("read", "restore")),
             f"{paired_ratio(times[f'{kind} restore'], times[f'{kind} read']):.2f}"]
            for kind in ("cold", "warm")
        ]  # fmt: skip
    finally:
        shutil.rmtree(folder)


def _restore(ours: RotatingCheckpointCallback, model: BaseAlgorithm) -> None:
    record = ours.repository.records()[-1]
    with CheckpointFile(ours.backend, record.path) as file:
        ours.begin_from(model, read_stored(file))


def main() -> int:
    """Measure all and print the tables."""
    options = arguments(__doc__.partition("\n")[0])
    torch.set_num_threads(1)
    turns = 3 if options.quick else 15
    machine = describe_machine()
    tables = {
        f"Stall by size of a full replay buffer, {NEW_ROWS:,} new rows": (("DQN", "ms", "worst ms"), by_buffer(turns)),
        "Stall by size of the network": (("PPO", "MB of tensors", "ms", "worst ms", "copy ms"), by_width(turns)),
        "An iteration beside which a checkpoint is written": (("PPO", "without ms", "with ms", "ratio"), beside(turns)),
        "Restoring DQN with a million rows": (
            ("files", "MB", "read and hash ms", "restore ms", "ratio"),
            restores(turns),
        ),
    }
    parts = [f"{title}\n\n{table(head, rows)}" for title, (head, rows) in tables.items()]
    text = "\n\n".join([f"{machine_line(machine)}\nMedians of {turns} turns.", *parts]) + "\n"
    return finish(text, {"machine": machine, "tables": {k: rows for k, (_, rows) in tables.items()}}, [], options)


if __name__ == "__main__":
    sys.exit(main())
