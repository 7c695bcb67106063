"""Whether one state of a training came from another: two machines can carry the same run on from the same point.

Manifests and metadata list the legs that led to a state, each a process with its start, and the step that it began from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unbroken.errors import DamagedFile, NotFound
from unbroken.folder import RunFolder
from unbroken.locate import repository_of
from unbroken.store.checkpoint_file import read_manifest
from unbroken.store.repository import CheckpointRecord


@dataclass(frozen=True)
class History:
    """How a state came about: its step, its legs from the first on without where they end, what was changed on the way, and its
    configuration if known.
    """

    step: int
    legs: tuple[Mapping[str, Any], ...]
    lineage: tuple[Any, ...] = ()
    config: Mapping[str, Any] | None = None

    def leads_to(self, later: History) -> bool:
        """Whether a training passed through this state on its way to `later`, or is at it."""
        count = len(self.legs)
        if self.step > later.step or later.legs[:count] != self.legs:
            return False
        # processes of the same second may look alike: what they train with tells them apart
        if later.lineage[: len(self.lineage)] != self.lineage:
            return False
        if len(later.legs) > count:
            return _begins(later.legs[count]) >= self.step
        return self.config is None or later.config is None or self.config == later.config

    def parting(self, other: History) -> int:
        """The step from which two states that went apart have nothing in common."""
        pairs = list(zip(self.legs, other.legs, strict=False))
        same = next((number for number, (one, two) in enumerate(pairs) if one != two), len(pairs))
        begun = [_begins(legs[same]) for legs in (self.legs, other.legs) if len(legs) > same]
        return min([self.step, other.step, *(begun or [_begins(legs[-1]) for legs in (self.legs, other.legs)])])


def history_of(facts: Mapping[str, Any], step: int | None = None) -> History | None:
    """The history that a manifest or, with its step, the metadata tells; None if it does not."""
    try:
        legs = tuple({key: value for key, value in leg.items() if key != "to_step"} for leg in facts["legs"])
        for leg in legs:
            _begins(leg)
        config = facts.get("config")
        rest = {key: value for key, value in config.items() if key != "total_timesteps"} if config else None
        lineage = tuple(facts.get("lineage") or ())
        return History(int(facts["step"] if step is None else step), legs, lineage, rest) if legs else None
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def metadata_history(facts: Mapping[str, Any]) -> History | None:
    """The history that the metadata of a run tell."""
    step = facts.get("total_timesteps_completed")
    return history_of(facts, step) if isinstance(step, int) else None


def own_records(folder: RunFolder) -> list[CheckpointRecord]:
    """Checkpoints here whose commit records can be read, oldest first."""
    try:
        found = repository_of(folder).records()
    except NotFound:
        return []
    return [record for record in found if record.valid is not False and not record.unreadable]


@dataclass(frozen=True)
class State:
    """A checkpoint here, and how it came about, if it tells."""

    path: str
    sequence: int
    history: History | None


def states_here(folder: RunFolder) -> list[State]:
    """Every checkpoint here whose commit record can be read, oldest first."""
    found = []
    for record in own_records(folder):
        with contextlib.suppress(NotFound, DamagedFile):
            history = history_of(read_manifest(folder.backend, record.path))
            found.append(State(record.path, record.sequence, history))
    return found


def _begins(leg: Mapping[str, Any]) -> int:
    return int(leg["from_step"])
