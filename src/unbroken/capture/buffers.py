"""The rows and the bookkeeping of replay buffers, and what a rollout buffer of the user's keeps beside its rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from unbroken.capture.filling import Filler
from unbroken.capture.objects import LIBRARIES, Describer
from unbroken.capture.replay_rows import RowCounter, Rows, grows_by_adding, put_rows, row_arrays
from unbroken.errors import DamagedFile, IncompatibleRun

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

Pieces = Iterable[tuple[int, dict[str, np.ndarray]]]
"""Rows in order of their counts: the count of the first, and the arrays by name."""

_OF_EVERY_BUFFER = frozenset({"env", "observation_space", "action_space", "device", "obs_shape"})


def used_rows(buffer: Any) -> int:
    """Rows of a replay buffer that hold data. With `optimize_memory_usage` the row after the last holds an observation."""
    return int(buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size))


def capture_replay_buffer(
    model: BaseAlgorithm, missing: list[str], counter: RowCounter | None = None
) -> tuple[dict[str, Any] | None, Rows | None]:
    """The buffer's description and, with a counter where it can be counted on, the new rows, which are then not in it."""
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return None, None
    new = counter.take(model) if counter is not None and grows_by_adding(buffer) else None
    arrays = row_arrays(buffer)
    held = {name.partition("/")[0] for name in arrays}
    describer = Describer(known={"environment": getattr(buffer, "env", None), "device": buffer.device})
    # HER's array of dictionaries, empty unless it copies the infos; another class's attribute of this name is state
    infos = {"infos"} if hasattr(buffer, "copy_info_dict") else set()
    skip = held | _OF_EVERY_BUFFER | infos
    fields = {name: describer.describe(value, name) for name, value in vars(buffer).items() if name not in skip}
    missing += [f"replay_buffer.{what}" for what in describer.opaque]
    if getattr(buffer, "copy_info_dict", False):
        missing.append("replay_buffer.infos, which HerReplayBuffer(copy_info_dict=True) fills with Python objects")
    apart = () if new is None else new.live
    rows = used_rows(buffer)
    whole = {name: array[:rows].copy() for name, array in arrays.items() if name not in apart}
    if new is None:
        return {"rows": whole, "fields": fields}, None
    # with `optimize_memory_usage` this row's observation is the last one's next
    ahead = {name: arrays[name][buffer.pos].copy() for name in apart if buffer.optimize_memory_usage}
    return {"rows": whole, "fields": fields, "ahead": ahead, "count": new.end, "oldest": new.oldest}, new


def restore_replay_buffer(
    model: BaseAlgorithm, described: dict[str, Any] | None, pieces: Pieces, problems: list[str]
) -> None:
    """Fill a like-built buffer; `pieces` are the rows that are not in the description, oldest first.

    Raises IncompatibleRun where they do not fit.
    """
    buffer = getattr(model, "replay_buffer", None)
    if described is None or buffer is None:
        return
    fields = described["fields"]
    try:
        if described.get("partial") is None:
            _put_whole(buffer, described, pieces)
        else:
            _put_partly(buffer, described, pieces)
            fields = {name: value for name, value in fields.items() if name not in ("pos", "full")}
    except DamagedFile:
        raise
    except (KeyError, ValueError) as error:
        raise IncompatibleRun(
            f"the replay buffer has another shape than in the checkpoint ({error}); give buffer_size as it was"
        ) from error
    filler = Filler()
    filler.fill_attributes(buffer, fields, "replay_buffer")
    problems += filler.problems


def _put_whole(buffer: Any, described: dict[str, Any], pieces: Pieces) -> None:
    put_rows(buffer, 0, described["rows"])
    for first, arrays in pieces:
        put_rows(buffer, first, arrays)
    for name, row in (described.get("ahead") or {}).items():
        row_arrays(buffer)[name][described["count"] % buffer.buffer_size] = row


def _put_partly(buffer: Any, described: dict[str, Any], pieces: Pieces) -> None:
    """Put the rows that there are at the beginning of the buffer, as if no others had ever been added.

    With `optimize_memory_usage` a row without its successor has no next observation, and is left out; with returns over n steps
    it ends its sequence.
    """
    position, expected = 0, described["oldest"]
    for first, arrays in pieces:
        skipped = max(0, expected - first)
        rows = {name: array[skipped:] for name, array in arrays.items()}
        if position and first + skipped != expected:
            position -= _end_before_gap(buffer, position)
        put_rows(buffer, position, rows)
        added = len(next(iter(rows.values())))
        position, expected = position + added, max(expected, first + skipped + added)
    if expected == described["partial"]:
        for name, row in described["ahead"].items():
            row_arrays(buffer)[name][position % buffer.buffer_size] = row
    elif position:
        position -= _end_before_gap(buffer, position)
    buffer.pos, buffer.full = position % buffer.buffer_size, False


def _end_before_gap(buffer: Any, position: int) -> int:
    """The row before `position` has lost its successor; returns how many rows are given up for it."""
    if buffer.optimize_memory_usage:
        return 1
    if hasattr(buffer, "n_steps"):
        # as the buffer does itself with its newest row while it samples
        last = position - 1
        buffer.timeouts[last] = np.logical_or(buffer.timeouts[last], np.logical_not(buffer.dones[last]))
    return 0


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
