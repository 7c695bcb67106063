"""Sends the rows of a run's metrics file to trackers: those up to a committed checkpoint, which no later leg repeats.

A tracker knows the run by a token that is on disk before the tracker hears of it, so that later legs continue the same run.
Trackers work in a thread of their own: one that hangs or fails holds up neither training nor saves.
"""

from __future__ import annotations

import importlib.util
import json
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from unbroken import logs
from unbroken.config import TrackingConfig
from unbroken.errors import UsageError
from unbroken.recording import METRICS
from unbroken.store.durable import LocalBackend, make_folder_durably, move_aside, write_json_durably

FOLDER = "tracking"
_STATE = f"{FOLDER}/state.json"
Row = tuple[int, dict[str, float]]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run: its name, the token that it is known by, and its configuration."""

    name: str
    token: str
    config: Mapping[str, Any]


class Tracker(Protocol):
    """One tracker's run. All methods are called by one thread, `begin` first; each may raise what it likes."""

    name: str

    def begin(self, run: TrackedRun) -> int | None:
        """Open the run of this token, or make it. Returns the last step that it has, -1 if none; None if it cannot tell."""
        ...

    def log(self, rows: Sequence[Row]) -> None:
        """Send rows, in the order of their steps. Rows that the tracker has already are left out."""
        ...

    def finish(self, complete: bool) -> None:
        """Close the run; `complete` if it has reached its target and has all rows."""
        ...


def trackers_of(config: TrackingConfig, folder: Path) -> list[Tracker]:
    """The trackers that are asked for. Raises UsageError where a package is missing."""
    found: list[Tracker] = []
    for name, make in _makers(config, folder).items():
        if not getattr(config, name):
            continue
        if not _is_installed(name):
            raise UsageError(f'tracking.{name} needs a package that is not installed: pip install "unbroken[{name}]"')
        found.append(make())
    return found


def _makers(config: TrackingConfig, folder: Path) -> dict[str, Callable[[], Tracker]]:
    from unbroken.tracking.mlflow_runs import MLflow
    from unbroken.tracking.wandb_runs import WeightsAndBiases

    place = folder / FOLDER
    return {"wandb": lambda: WeightsAndBiases(place, config.project), "mlflow": lambda: MLflow(config.project)}


def _is_installed(package: str) -> bool:
    """A folder of that name without a package in it has a spec too, as the `wandb` that W&B makes in the working folder."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


class Forwarder:
    """Brings trackers up to date after each commit. `forward` may be called from any thread, `close` once."""

    def __init__(self, folder: Path, trackers: Sequence[Tracker], name: str, config: Mapping[str, Any]) -> None:
        self._path = folder
        self._backend = LocalBackend(folder)
        self._trackers = list(trackers)
        self._state = self._stored()
        self._run = TrackedRun(name, self._state["token"], config)
        self._begun: set[str] = set()
        self._places: dict[str, int] = {}
        self._failed: set[str] = set()
        self._wanted: queue.SimpleQueue[tuple[int, bool | None]] = queue.SimpleQueue()
        self._finished = not self._trackers
        self._thread = threading.Thread(target=self._work, name="unbroken-trackers", daemon=True)
        if self._trackers:
            self._thread.start()

    def forward(self, position: int) -> None:
        """A checkpoint is on disk that was made when the metrics file had so many bytes."""
        if self._trackers:
            self._wanted.put((position, None))

    def close(self, complete: bool, patience_seconds: float = 60.0) -> bool:
        """Let the trackers finish, for at most so long; returns whether all did. StopNow may end the wait."""
        if self._thread.is_alive():
            self._wanted.put((0, complete))
            self._thread.join(patience_seconds)
        if self._thread.is_alive():
            logs.LOGGER.warning("WARNING: a tracker does not answer; the next leg sends what it lacks")
        return self._finished

    @property
    def hangs(self) -> bool:
        """After `close`: whether a tracker is still at work, and may also hold up the end of the process."""
        return self._thread.is_alive()

    def _stored(self) -> dict[str, Any]:
        """The token and the last step that each tracker has; made and durable before any tracker is told."""
        try:
            stored = json.loads((self._path / _STATE).read_text(encoding="utf-8"))
            if isinstance(stored["token"], str) and isinstance(stored["steps"], dict):
                return dict(stored)
            self._put_aside("it has no token")
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._put_aside(str(error))
        made: dict[str, Any] = {"token": uuid.uuid4().hex, "steps": {}}
        if self._trackers:
            make_folder_durably(self._backend, FOLDER)
            write_json_durably(self._backend, _STATE, made)
        return made

    def _put_aside(self, reason: str) -> None:
        """A token that cannot be read is not overwritten: with it, somebody may still join the two runs by hand."""
        if self._trackers:
            place = move_aside(self._backend, _STATE, "quarantine")
            logs.LOGGER.warning(
                "WARNING: %s cannot be used (%s) and is now %s; the trackers get a new run", _STATE, reason, place
            )

    def _work(self) -> None:
        position = 0
        while True:
            wanted, complete = self._wanted.get()
            if complete is not None:
                break
            position = wanted
            for tracker in self._trackers:
                self._succeeds(tracker, partial(self._catch_up, tracker, position))
        # every one, also after one that failed
        finished = [self._finishes(tracker, position, complete) for tracker in self._trackers]
        self._finished = all(finished)

    def _finishes(self, tracker: Tracker, position: int, complete: bool) -> bool:
        """Close the run; a run that lacks rows is not complete, whatever the training is."""
        if complete and position and not self._succeeds(tracker, partial(self._catch_up, tracker, position)):
            logs.LOGGER.warning("WARNING: %s has not got all rows; the next leg sends what it lacks", tracker.name)
            complete = False
        if tracker.name not in self._begun:
            return position == 0
        return self._succeeds(tracker, partial(tracker.finish, complete))

    def _succeeds(self, tracker: Tracker, act: Callable[[], None]) -> bool:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, training goes on
            self._warn(tracker, error)
            return False
        return True

    def _catch_up(self, tracker: Tracker, position: int) -> None:
        if tracker.name not in self._begun:
            self._begin(tracker)
        known = int(self._state["steps"].get(tracker.name, -1))
        place = self._places.get(tracker.name, 0)
        rows = [(step, values) for step, values in _rows(self._path / METRICS, place, position) if step > known]
        if rows:
            tracker.log(rows)
            self._state["steps"][tracker.name] = rows[-1][0]
            write_json_durably(self._backend, _STATE, self._state)
        self._places[tracker.name] = max(place, position)

    def _begin(self, tracker: Tracker) -> None:
        """A tracker can have less than was noted, as its buffers die with the process; and more, if that died before noting."""
        told = tracker.begin(self._run)
        steps = self._state["steps"]
        if told is not None:
            steps[tracker.name] = min(int(steps.get(tracker.name, -1)), told)
        self._begun.add(tracker.name)

    def _warn(self, tracker: Tracker, error: Exception) -> None:
        if tracker.name not in self._failed:
            self._failed.add(tracker.name)
            reason = " ".join(str(error).split()) or type(error).__name__
            logs.LOGGER.warning(
                "WARNING: %s: %s; training goes on, the next checkpoint tries again", tracker.name, reason
            )


def _rows(path: Path, start: int, end: int) -> Iterator[Row]:
    """The numbers in the metrics file between two positions, one row per step."""
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read(max(0, end - start)).splitlines()
    joined: dict[int, dict[str, float]] = {}
    for line in lines:
        row = json.loads(line)
        joined.setdefault(int(row.pop("step")), {}).update(_numbers(row))
    yield from sorted(joined.items())


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Numbers, and those that JSON has no sign for, which the metrics file writes as text."""
    found = {}
    for key, value in row.items():
        if isinstance(value, int | float) or value in ("nan", "inf", "-inf"):
            found[key] = float(value)
    return found
