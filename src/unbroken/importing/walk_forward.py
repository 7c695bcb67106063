"""Results of a walk-forward experiment: a row for each iteration, from its model, its metrics, or the reason for none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unbroken.errors import DamagedFile
from unbroken.importing.foreign_json import json_object
from unbroken.importing.found import Found

_FILES = re.compile(r"(?P<what>model|metrics|no_model)_iter_(?P<iteration>\d{1,15})\.(?P<ending>zip|json)")
_REASONS = ("reason", "error", "message", "why")
# the first that an iteration has
_METRICS = (
    "score",
    "validation_score",
    "val_score",
    "mean_reward",
    "validation_reward",
    "val_reward",
    "sharpe",
    "sharpe_ratio",
    "total_return",
)
_JSON_LIMIT = 16 * 1024 * 1024
_REASON_LIMIT = 400


@dataclass(frozen=True)
class Iteration:
    """One window: environment steps of its model, its numbers by dotted name, the file of the model or the reason for none."""

    folder: str
    iteration: int
    steps: int | None
    metrics: dict[str, float]
    model: str | None
    reason: str | None

    def plain(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    def metric(self) -> tuple[str, float] | None:
        """The number to show: a score if there is one."""
        by_leaf = {name.rpartition(".")[2]: name for name in self.metrics}
        name = next((by_leaf[key] for key in _METRICS if key in by_leaf), next(iter(self.metrics), None))
        return None if name is None else (name, self.metrics[name])


def is_of_iteration(name: str) -> bool:
    """Whether a file belongs to an iteration by its name."""
    return _matched(name) is not None


def _matched(name: str) -> re.Match[str] | None:
    match = _FILES.fullmatch(name)
    return match if match is not None and (match["what"] == "model") == (match["ending"] == "zip") else None


def read_document(path: Path) -> dict[str, Any]:
    """The JSON of an iteration. Raises DamagedFile, and OSError where it cannot be read."""
    if path.stat().st_size > _JSON_LIMIT:
        raise DamagedFile(f"{path.name} is larger than {_JSON_LIMIT:,} bytes")
    return json_object(path.read_bytes(), f"{path.name} is damaged: it")


def iterations(root: Path, files: Sequence[Found]) -> list[Iteration]:
    """The iterations in all folders of a source, in their order."""
    groups: dict[tuple[str, int], dict[str, Found]] = {}
    for found in files:
        match = _matched(found.name)
        if match is not None:
            groups.setdefault((found.folder, int(match["iteration"])), {})[match["what"]] = found
    return [_iteration(root, folder, number, groups[folder, number]) for folder, number in sorted(groups)]


def _iteration(root: Path, folder: str, number: int, group: Mapping[str, Found]) -> Iteration:
    model, documents = group.get("model"), {what: _json(root, group.get(what)) for what in ("metrics", "no_model")}
    usable = model is not None and model.problem is None
    reason = None
    if not usable:
        told = next((documents["no_model"][key] for key in _REASONS if key in documents["no_model"]), None)
        reason = model.problem if model else "no model and no reason in the folder"
        reason = reason if told is None else " ".join(str(told).split())[:_REASON_LIMIT]
    return Iteration(
        folder,
        number,
        model.steps if model else None,
        {name: value for name, value in numbers(documents["metrics"]) if math.isfinite(value)},
        model.path if model is not None and usable else None,
        reason,
    )


def _json(root: Path, found: Found | None) -> dict[str, Any]:
    return {} if found is None or found.problem is not None else read_document(root / found.path)


def numbers(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The numbers of a document by dotted name; what is too large for a float is infinite."""
    found: list[tuple[str, float]] = []
    for key, value in document.items():
        if isinstance(value, Mapping) and prefix.count(".") < 3:
            found += numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}{key}", _float(value)))
    return found


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
