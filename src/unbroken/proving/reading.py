"""Traces read back: one leg is what one process has written, followed while it grows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unbroken.tracing import SUFFIX

Event = dict[str, Any]
Key = tuple[Any, ...]


@dataclass
class Leg:
    """The events of one process in their order; a torn last line is left out."""

    events: list[Event] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The newest step, 0 before the first."""
        return next((e["step"] for e in reversed(self.events) if e["event"] == "step"), self.first_step or 0)

    @property
    def first_step(self) -> int | None:
        """Where the process began: the step of its first cut, None before that."""
        return next((e["step"] for e in self.events if e["event"] == "cut"), None)

    def cuts(self) -> list[Event]:
        """The events that hold a whole state."""
        return [e for e in self.events if e["event"] == "cut"]

    def keyed(self) -> list[tuple[Key, Event]]:
        """Events under names that are the same in another process that comes by the same place."""
        found: list[tuple[Key, Event]] = []
        rows: dict[Key, int] = {}
        for event in self.events:
            kind = event["event"]
            if kind == "begin":
                continue
            key: Key = (event["call"], kind, event["step"], event.get("cut", ""))
            if kind == "log":
                # a callback may log at a step that the training logs at too
                rows[key] = rows.get(key, -1) + 1
                key = (*key, rows[key])
            found.append((key, event))
        return found


class Follower:
    """Reads what is new in the trace of the newest process in a folder; cheap enough to be polled."""

    def __init__(self, folder: Path) -> None:
        self._known = set(_files(folder))
        self._folder = folder
        self._path: Path | None = None
        self._place = 0
        self.leg = Leg()

    def poll(self) -> Leg:
        """The leg as it stands now."""
        if self._path is None:
            new = [path for path in _files(self._folder) if path not in self._known]
            if not new:
                return self.leg
            self._path = new[0]
        with self._path.open("rb") as file:
            file.seek(self._place)
            complete, newline, _ = file.read().rpartition(b"\n")
        self._place += len(complete) + len(newline)
        self.leg.events += [json.loads(line) for line in complete.splitlines()]
        return self.leg


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))
