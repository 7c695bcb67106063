"""The models for use that a run leaves beside its checkpoints: the best by its score, and the final one.

They hold no training state. A failing export warns and never ends a training.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from unbroken import logs
from unbroken.errors import UnbrokenError
from unbroken.folder import BEST_SCORE, FileNames, RunFolder
from unbroken.keeper import reason_of
from unbroken.store.checkpoint_file import CheckpointWriter, read_manifest, write_checkpoint
from unbroken.store.durable import write_json_durably


@dataclass(frozen=True)
class Score:
    """A mean episodic reward and the environment step at which it was reached."""

    value: float
    step: int

    def beats(self, other: Score | None) -> bool:
        """Whether this score is strictly better. A score that is not a number beats nothing and is beaten by every number."""
        if math.isnan(self.value):
            return False
        return other is None or math.isnan(other.value) or self.value > other.value

    def plain(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"score": self.value, "step": self.step}


class Exports:
    """Writes the best and the final model of a run; `fill` writes a model's members, `facts` go into its commit record.

    After a best model that could not be written, the next is not tried before `patience` more steps.
    """

    def __init__(
        self,
        folder: RunFolder,
        names: FileNames,
        fill: Callable[[CheckpointWriter], None],
        facts: Mapping[str, Any],
        patience: int = 0,
    ) -> None:
        self.best = _read_best(folder, names)
        self.final = names.final
        self._folder = folder
        self._names = names
        self._fill = fill
        self._facts = facts
        self._patience = patience
        self._next_best = 0

    def complete_best_score(self) -> None:
        """The score beside the best model is written after it: a kill in between leaves an older one."""
        if self.best is not None and self._folder.best_score() != self.best.plain():
            with contextlib.suppress(OSError):
                write_json_durably(self._folder.backend, BEST_SCORE, self.best.plain())

    def keep_best(self, score: Score) -> None:
        """Export the best model, unless the one on disk, perhaps of a leg that was killed later, is at least as good."""
        if not score.beats(self.best) or score.step < self._next_best:
            return
        if self._write(self._names.best, score.step, {"kind": "best", **score.plain()}, score):
            self.best = score
            logs.checkpoint(f"New best model: mean reward {score.value:.2f} at step {score.step:,}")
        else:
            self._next_best = score.step + self._patience

    def write_final(self, step: int) -> bool:
        """Export the final model; returns whether it was written."""
        return self._write(self._names.final, step, {"kind": "final"})

    def say_reached(self, step: int, target: int) -> None:
        """The last lines of a run that is complete: how far, how good, where the models are, and how to go on."""
        best = self.best
        score = (
            "no score yet"
            if best is None
            else f"best score {best.value:.2f} at step {best.step:,} ({self._names.best})"
        )
        logs.checkpoint(f"Target reached: {step:,} of {target:,} steps are done; {score}")
        logs.checkpoint(
            f"Ready for the next run: {self._folder.path} is at step {step:,}, its final model is "
            f"{self._folder.path / self.final}; --steps with a higher target, or --more N, continues"
        )

    def try_again_at_once(self) -> None:
        """Try the next best model at once, whatever happened to the one before."""
        self._next_best = 0

    def _write(self, path: str, step: int, facts: Mapping[str, Any], score: Score | None = None) -> bool:
        whole = {"step": step, "created": time.time(), **self._facts, **facts}

        def fill(writer: CheckpointWriter) -> dict[str, Any]:
            self._fill(writer)
            return whole

        try:
            write_checkpoint(self._folder.backend, path, fill)
            if score is not None:
                write_json_durably(self._folder.backend, BEST_SCORE, score.plain())
        except Exception as error:  # noqa: BLE001 - serialising runs the user's code, and no export may end a training
            logs.warn_checkpoint(f"{path} was not written: {reason_of(error)}; training goes on")
            return False
        return True


def _read_best(folder: RunFolder, names: FileNames) -> Score | None:
    try:
        manifest = read_manifest(folder.backend, names.best)
        return Score(float(manifest["score"]), int(manifest["step"]))
    except (UnbrokenError, OSError, KeyError, TypeError, ValueError):
        return None
