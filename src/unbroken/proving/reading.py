"""Traces read back: one leg is what one process has written, followed while it grows. Steps stay on disk; they may be millions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unbroken.tracing import SUFFIX

Event = dict[str, Any]
Key = tuple[Any, ...]


@dataclass
class Leg:
    """The trace of one process as far as it has been read; a torn last line is left out.

    `step` is the newest one, `call` the loop that it belongs to, `calls` the first and newest step of each loop, `cuts` are the
    whole states; times are seconds since the epoch, None before there are any.
    """

    path: Path | None = None
    step: int = 0
    call: str = ""
    calls: dict[str, list[int]] = field(default_factory=dict)
    newest: str = ""
    cuts: list[Event] = field(default_factory=list)
    began_at: float | None = None
    stepped_at: float | None = None
    ended_at: float | None = None
    _place: int = 0

    @property
    def first_step(self) -> int | None:
        """Where the process began: the step of its first cut, None before that."""
        return self.cuts[0]["step"] if self.cuts else None

    def read_on(self) -> None:
        """Take in what has been written since the last time."""
        for _, event in self._lines(self._place):
            self._note(event)

    def events(self) -> Iterator[tuple[Key, int, Event]]:
        """All events but beginnings, with their places in the file, by names that are the same in every process that comes by."""
        rows: dict[Key, int] = {}
        for offset, event in self._lines(0):
            kind = event["event"]
            if kind == "begin":
                continue
            key: Key = (event["call"], kind, event["step"], event.get("cut", ""))
            if kind == "log":
                # a callback may log at a step that the training logs at too
                rows[key] = rows.get(key, -1) + 1
                key = (*key, rows[key])
            yield key, offset, event

    def _lines(self, place: int) -> Iterator[tuple[int, Event]]:
        if self.path is None:
            return
        with self.path.open("rb") as file:
            file.seek(place)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                yield place, json.loads(line)
                place += len(line)
                self._place = max(self._place, place)

    def _note(self, event: Event) -> None:
        self.newest = event["event"]
        self.began_at = self.began_at or event["at"]
        self.ended_at = event["at"]
        if self.newest == "cut":
            self.cuts.append(event)
        if self.newest in ("cut", "step"):
            self.step, self.call = event["step"], event["call"]
            self.calls.setdefault(self.call, [self.step, self.step])[1] = self.step
        if self.newest == "step":
            self.stepped_at = self.stepped_at or event["at"]


class Way:
    """The whole way of a training, over all loops of its script, as the undisturbed twin went it; steps of it are counted on."""

    def __init__(self, twin: Leg) -> None:
        self._begins: dict[str, int] = {}
        self.steps = 0
        for call, (first, last) in twin.calls.items():
            self._begins[call] = self.steps - first
            self.steps += last - first

    def at(self, call: str, step: int) -> int:
        """How far a step of a loop lies on the way; what the twin never came by lies at its end."""
        return self._begins[call] + step if call in self._begins else self.steps

    def passed(self, leg: Leg) -> int:
        """How far a leg has come."""
        return self.at(leg.call, leg.step) if leg.cuts else 0


class Index:
    """Finds the events of a complete leg by their names."""

    def __init__(self, leg: Leg) -> None:
        self._path = leg.path
        self._calls: dict[str, int] = {}
        self._places = {self._short(key): offset for key, offset, _ in leg.events()}

    def find(self, key: Key) -> Event | None:
        """The event of that name, None if there is none."""
        offset = self._places.get(self._short(key))
        if offset is None or self._path is None:
            return None
        with self._path.open("rb") as file:
            file.seek(offset)
            event: Event = json.loads(file.readline())
            return event

    def _short(self, key: Key) -> Key | int:
        # a number takes a quarter of the memory of a name, and nearly all events are steps
        call = self._calls.setdefault(key[0], len(self._calls))
        return call << 48 | key[2] if key[1] == "step" else key


class Follower:
    """Follows the next process that begins a trace in a folder; cheap enough to be polled."""

    def __init__(self, folder: Path) -> None:
        self._known = set(_files(folder))
        self._folder = folder
        self.leg = Leg()

    def poll(self) -> Leg:
        """The leg as it stands now."""
        if self.leg.path is None:
            self.leg.path = next((path for path in _files(self._folder) if path not in self._known), None)
        self.leg.read_on()
        return self.leg


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))
