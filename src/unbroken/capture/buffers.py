"""The rows and the bookkeeping of replay buffers, and what a rollout buffer of the user's keeps beside its rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from unbroken.capture.filling import Filler
from unbroken.capture.objects import LIBRARIES, Describer
from unbroken.errors import IncompatibleRun

_OF_EVERY_BUFFER = frozenset({"env", "observation_space", "action_space", "device", "obs_shape"})


def used_rows(buffer: Any) -> int:
    """Rows of a replay buffer that hold data. With `optimize_memory_usage` the row after the last holds an observation."""
    return int(buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size))


def _row_arrays(buffer: Any) -> dict[str, np.ndarray]:
    found = {}
    for name, value in vars(buffer).items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for key, part in parts:
            if isinstance(part, np.ndarray) and part.shape[:1] == (buffer.buffer_size,) and not part.dtype.hasobject:
                found[f"{name}/{key}" if key else name] = part
    return found


def capture_replay_buffer(model: BaseAlgorithm, missing: list[str]) -> dict[str, Any] | None:
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return None
    rows = used_rows(buffer)
    arrays = _row_arrays(buffer)
    held = {name.partition("/")[0] for name in arrays}
    describer = Describer(known={"environment": getattr(buffer, "env", None), "device": buffer.device})
    skip = held | _OF_EVERY_BUFFER
    fields = {name: describer.describe(value, name) for name, value in vars(buffer).items() if name not in skip}
    missing += [f"replay_buffer.{what}" for what in describer.opaque]
    return {"rows": {name: array[:rows].copy() for name, array in arrays.items()}, "fields": fields}


def restore_replay_buffer(model: BaseAlgorithm, described: dict[str, Any] | None, problems: list[str]) -> None:
    buffer = getattr(model, "replay_buffer", None)
    if described is None or buffer is None:
        return
    arrays = _row_arrays(buffer)
    for name, rows in described["rows"].items():
        if name not in arrays or arrays[name].shape[1:] != rows.shape[1:] or len(rows) > len(arrays[name]):
            raise IncompatibleRun(
                f"replay buffer {name!r} has another shape than in the checkpoint; give buffer_size as it was"
            )
        arrays[name][: len(rows)] = rows
    filler = Filler()
    filler.fill_attributes(buffer, described["fields"], "replay_buffer")
    problems += filler.problems


def capture_rollout_buffer(model: BaseAlgorithm, missing: list[str]) -> dict[str, Any]:
    """What a rollout buffer of the user's own class keeps over rollouts; its rows are about to be reset, as a library's whole."""
    buffer = getattr(model, "rollout_buffer", None)
    if buffer is None or f"{type(buffer).__module__}.".startswith(LIBRARIES):
        return {}
    rows = (buffer.buffer_size, buffer.buffer_size * buffer.n_envs)
    describer = Describer(known={"device": buffer.device, "model": model})
    fields = {
        name: describer.describe(value, name)
        for name, value in vars(buffer).items()
        if name not in _OF_EVERY_BUFFER
        and not (isinstance(value, np.ndarray) and value.shape[:1] in {(n,) for n in rows})
    }
    missing += [f"rollout_buffer.{what}" for what in describer.opaque]
    return fields


def restore_rollout_buffer(model: BaseAlgorithm, described: dict[str, Any]) -> list[str]:
    """Put captured fields into a like-built rollout buffer; returns what did not fit."""
    filler = Filler(known={"model": model})
    buffer = getattr(model, "rollout_buffer", None)
    if buffer is not None:
        filler.fill_attributes(buffer, described, "rollout_buffer")
    return filler.problems
