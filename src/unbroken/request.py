"""What the user asked for, from the command line or a notebook cell, before it meets what a run has stored."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from unbroken.config import (
    QUICK_TARGET,
    TYPICAL_HYPERPARAMETERS,
    assignments,
    configuration_keys,
    merged,
    read_yaml,
    seconds,
)
from unbroken.errors import UsageError


class TrainWords(TypedDict, total=False):
    """The words of `unbroken train` and of `unbroken.train(...)`; every one may be left out.

    Steps are environment steps; durations are seconds or text such as "11h".
    """

    config: str | Path | None
    algo: str | None
    steps: int | None
    more: int | None
    quick: bool
    fresh: bool
    checkpoint: str | Path | None
    allow_partial: bool
    run: str | None
    runs_dir: str | Path | None
    seed: int | None
    device: str | None
    n_envs: int | None
    save_every: int | None
    save_seconds: float | None
    keep_last: int | None
    eval_every: int | None
    eval_episodes: int | None
    deadline: str | float | None
    grace: str | float | None
    settings: list[str] | dict[str, Any] | None


_PLACES = {
    "algo": ("algo",),
    "seed": ("seed",),
    "device": ("device",),
    "n_envs": ("environment", "n_envs"),
    "save_every": ("saving", "every"),
    "save_seconds": ("saving", "seconds"),
    "keep_last": ("saving", "keep_last"),
    "eval_every": ("evaluation", "every"),
    "eval_episodes": ("evaluation", "episodes"),
}

_OTHER_NAMES = {
    "total_timesteps": "steps",
    "timesteps": "steps",
    "deadline_seconds": "deadline",
    "grace_seconds": "grace",
    "algorithm": "algo",
    "set": "settings",
}
# what is below these is not ours to take apart
_OPAQUE_SECTIONS = frozenset({"kwargs", "policy_kwargs"})


@dataclass(frozen=True)
class TrainRequest:
    """A checked request: `values` are the configuration keys given, file and words laid over one another."""

    values: dict[str, Any]
    steps: int | None = None
    more: int | None = None
    quick: bool = False
    fresh: bool = False
    checkpoint: str | None = None
    allow_partial: bool = False
    run: str | None = None
    runs_dir: Path = field(default_factory=lambda: runs_folder(None))

    def target_timesteps(self) -> int | None:
        """The target that was asked for, None if it falls back to the default."""
        if self.steps is not None:
            return self.steps
        if self.quick:
            return QUICK_TARGET
        return self.values.get("total_timesteps")


def runs_folder(given: str | Path | None) -> Path:
    """The folder of the runs: as given, from UNBROKEN_RUNS_DIR, or `runs` in the current folder."""
    return Path(given or os.environ.get("UNBROKEN_RUNS_DIR") or "runs")


def make_request(target: str | None, words: TrainWords) -> TrainRequest:
    """Check the words of a request against one another. Raises UsageError, ConfigurationError or NotFound."""
    if target is not None and not isinstance(target, str):
        raise UsageError(
            f"the target is text and not {target!r}; name an environment's class as 'module:Class', "
            "a registered one by its id, or a YAML file by its path"
        )
    for word in words:
        if word not in TrainWords.__annotations__:
            raise UsageError(_unknown_word(word))
    steps, more, quick = words.get("steps"), words.get("more"), bool(words.get("quick"))
    for name, number in (("--steps", steps), ("--more", more)):
        if number is not None and number < 1:
            raise UsageError(f"{name} {number}: give a number of steps of at least 1")
    if more is not None and (steps is not None or quick):
        raise UsageError("--more adds to what is there; it goes neither with --steps nor with --quick")
    if quick and steps is not None:
        raise UsageError("--quick is a target of its own; give it or --steps, not both")
    if words.get("fresh") and (words.get("checkpoint") or more is not None):
        raise UsageError("--fresh starts again; it goes neither with --checkpoint nor with --more")
    checkpoint, allow_partial = words.get("checkpoint"), bool(words.get("allow_partial"))
    if allow_partial and checkpoint is None:
        raise UsageError(
            "--allow-partial is for a fork of a checkpoint whose replay is incomplete; give --checkpoint too"
        )
    return TrainRequest(
        values=_values(target, words),
        steps=steps,
        more=more,
        quick=quick,
        fresh=bool(words.get("fresh")),
        checkpoint=None if checkpoint is None else str(checkpoint),
        allow_partial=allow_partial,
        run=words.get("run"),
        runs_dir=runs_folder(words.get("runs_dir")),
    )


def _unknown_word(word: str) -> str:
    place = next((key for key in configuration_keys() if key.rpartition(".")[2] == word), None)
    near = difflib.get_close_matches(word, TrainWords.__annotations__, n=1, cutoff=0.7)
    if word in _OTHER_NAMES:
        return f"unknown word {word!r}: say {_OTHER_NAMES[word]!r}"
    if place is not None:
        return f"unknown word {word!r}: give it as settings={_settings(place)}"
    if near and word not in TYPICAL_HYPERPARAMETERS:
        return f"unknown word {word!r}; did you mean {near[0]!r}?"
    return f"unknown word {word!r}: a hyper-parameter is given as settings={_settings(f'hyperparameters.{word}')}"


def _settings(place: str) -> str:
    text = "…"
    for part in reversed(place.split(".")):
        text = f"{{{part!r}: {text}}}"
    return text


def _values(target: str | None, words: TrainWords) -> dict[str, Any]:
    config = words.get("config")
    if target is not None and target.lower().endswith((".yaml", ".yml")):
        if config is not None:
            raise UsageError(f"two configuration files: {target} and {config}")
        target, config = None, target
    values = read_yaml(Path(config)) if config is not None else {}
    if target is not None:
        values = merged(values, {"target": target})
    for word, place in _PLACES.items():
        given = words.get(word)
        if given is not None:
            values = merged(values, _nested(place, given))
    for word, key in (("deadline", "deadline_seconds"), ("grace", "grace_seconds")):
        duration = words.get(word)
        if duration is not None:
            values[key] = seconds(str(duration))
    settings = words.get("settings") or {}
    return merged(values, assignments(settings) if isinstance(settings, list) else _undotted(settings))


def _undotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`: in a notebook people write the keys of `--set`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        inner = _undotted(value) if isinstance(value, Mapping) and key not in _OPAQUE_SECTIONS else value
        found = merged(found, _nested(tuple(key.split(".")), inner))
    return found


def _nested(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    for part in reversed(place):
        value = {part: value}
    return dict(value)
