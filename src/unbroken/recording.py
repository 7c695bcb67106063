"""What training logs, step by step: `logs/metrics.jsonl` and one TensorBoard event file, each continuous over all legs.

Every record is on its way to the disk when `write` returns. A disk that is full costs records, with a warning, not the training.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unbroken import logs
from unbroken.store.append import AppendFile, cut_file

METRICS = "logs/metrics.jsonl"
EVENTS = "tensorboard/events.out.tfevents.0000000000.unbroken"


class Recorder:
    """Appends metric rows of one run. One thread writes; `sync` may run in another."""

    def __init__(self, folder: Path) -> None:
        self._files = {name: AppendFile(folder / name) for name in (METRICS, EVENTS)}
        self._events: Any = None
        self._warned = False

    def write(self, step: int, values: Mapping[str, Any], scalars: Mapping[str, Any] | None = None) -> None:
        """Append a row of plain values to the metrics file and `scalars` (default: the same) to TensorBoard."""
        row = {"step": step, **{key: _plain(value) for key, value in values.items()}}
        try:
            self._files[METRICS].write((json.dumps(row) + "\n").encode())
            self._write_events(step, values if scalars is None else scalars)
        except OSError as error:
            if not self._warned:
                logs.LOGGER.warning("WARNING: metrics cannot be written (%s); training goes on without them", error)
            self._warned = True

    def positions(self) -> dict[str, int]:
        """Bytes in each file now, by path relative to the run folder."""
        return {name: file.position for name, file in self._files.items()}

    def sync(self) -> None:
        """Make everything written so far durable."""
        for file in self._files.values():
            file.sync()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _write_events(self, step: int, values: Mapping[str, Any]) -> None:
        # protobuf and tensorboard take half a second to import: only when there is something to write
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        writer = self._event_writer(Event)
        numbers = {key: float(value) for key, value in values.items() if _is_number(value)}
        if numbers:
            summary = Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in numbers.items()])
            writer.write(Event(wall_time=time.time(), step=step, summary=summary).SerializeToString())

    def _event_writer(self, event: Any) -> Any:
        if self._events is None:
            from tensorboard.summary.writer.record_writer import RecordWriter

            file = self._files[EVENTS]
            self._events = RecordWriter(file)
            if file.position == 0:
                self._events.write(event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        return self._events


def cut_recordings(folder: Path, positions: Mapping[str, int]) -> None:
    """Cut the recordings of a run where a checkpoint was made; tails go to `archive/`. A shorter file is reported."""
    for name in (METRICS, EVENTS):
        position = int(positions.get(name, 0))
        difference = cut_file(folder / name, position, folder / "archive")
        if difference > 0:
            # nothing is kept where there is no checkpoint: a leg that was killed before its first
            how = "Cut {} back to the checkpoint" if position else "Began {} anew"
            logs.checkpoint(f"{how.format(name)} ({difference} bytes of repeated steps kept in archive/)")
        elif difference < 0:
            logs.warn_checkpoint(
                f"{name} is {-difference} bytes shorter than when the checkpoint was made: rows are missing"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (hasattr(value, "item") and getattr(value, "size", 1) == 1)


def _plain(value: Any) -> Any:
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if isinstance(value, int | float | str | bool | None) else str(value)
