"""Best and final models of an earlier trainer as the models for use of a run: the same members, in a file that can be verified.

`X.load()` of Stable-Baselines3 reads them. Only models of the training that the run goes on from count, and a best one only with
the score that an EvalCallback left beside it: without one, whatever the run finds later is better.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unbroken import logs
from unbroken.config import RunConfig
from unbroken.exports import Score
from unbroken.folder import BEST_SCORE, RunFolder, file_names
from unbroken.importing.found import Found
from unbroken.importing.kinship import Kinship
from unbroken.importing.sound_zip import reading, require_sound
from unbroken.importing.starting import Start
from unbroken.store.checkpoint_file import CheckpointWriter, write_checkpoint
from unbroken.store.durable import write_json_durably

_BEST = "best_model.zip"


def place_models(root: Path, files: Sequence[Found], folder: RunFolder, start: Start) -> dict[str, str]:
    """Place what there is; returns from which file each came. A model that cannot be placed stays below `imported/`."""
    config, kinship, placed = start.config, Kinship(files, start.found), {}
    names = file_names(config.scenario, config.algo)
    usable = [f for f in files if f.kind == "sb3 zip" and f.steps is not None]
    best = _of_the_run("best", [f for f in usable if f.name == _BEST], kinship, start)
    score = None if best is None else _score(root, [f for f in files if kinship.has(f.folder)], best)
    if best is not None and score is None:
        logs.checkpoint(
            f"{best.path} has no score of its step beside it: it stays in imported/, and the run looks for its own best"
        )
    if best is not None and score is not None:
        _write(root, best, folder, names.best, config, {"kind": "best", **score.plain()})
        write_json_durably(folder.backend, BEST_SCORE, score.plain())
        placed["best"] = best.path
    finals = [f for f in usable if f.prefix is None and "final" in f.name.lower()]
    final = _of_the_run("final", finals, kinship, start)
    if final is not None:
        _write(root, final, folder, names.final, config, {"kind": "final", "step": final.steps})
        placed["final"] = final.path
    return placed


def _of_the_run(what: str, candidates: list[Found], kinship: Kinship, start: Start) -> Found | None:
    """The one model of the run's own training. What is left in `imported/` is said."""
    own = [found for found in candidates if kinship.is_model_of_it(found)]
    taken = own[0] if len(own) == 1 else None
    left = [found.path for found in candidates if found is not taken]
    if left:
        logs.checkpoint(
            f"{', '.join(left[:3])}{f' and {len(left) - 3} more' if len(left) > 3 else ''}: nothing shows that this is the {what} "
            f"model of the training of {start.found.path}, by folder, algorithm and spaces; it stays in imported/"
        )
    return taken


def _score(root: Path, files: Sequence[Found], best: Found) -> Score | None:
    """The mean reward of the evaluation at the model's own step."""
    near = {best.folder, best.folder.rpartition("/")[0]}
    for found in files:
        if found.kind == "evaluations" and found.folder in near:
            scores = _evaluations(root / found.path)
            if best.steps in scores:
                return Score(scores[best.steps], best.steps)
    return None


def _evaluations(path: Path) -> dict[int, float]:
    """Mean reward by step. Arrays of plain numbers only: anything else in the file is not opened."""
    import numpy as np

    try:
        with reading(path) as archive:
            require_sound(path, archive)
        with np.load(path, allow_pickle=False) as held:
            steps, rewards = held["timesteps"], held["results"].mean(axis=-1)
        pairs = [(int(step), float(reward)) for step, reward in zip(steps, rewards, strict=True)]
    except Exception:  # noqa: BLE001 - numpy stumbles over altered headers in any way, memory for what they claim included
        logs.warn_checkpoint(f"{path.name} cannot be read as plain arrays: its scores are not used")
        return {}
    return {step: reward for step, reward in pairs if math.isfinite(reward)}


def _write(root: Path, found: Found, folder: RunFolder, place: str, config: RunConfig, facts: dict[str, Any]) -> None:
    def fill(writer: CheckpointWriter) -> dict[str, Any]:
        with reading(root / found.path) as archive:
            for name in archive.namelist():
                writer.write_member(name, archive.read(name))
        known = {"run": folder.name, "scenario": config.scenario, "config": config.plain(), "imported": found.path}
        return {"created": time.time(), **known, **facts}

    write_checkpoint(folder.backend, place, fill)
