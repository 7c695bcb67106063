"""What a leg needs of a learner, and what a learner gets of its leg. Two fulfil it: Stable-Baselines3's and our own PPO."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from unbroken.exports import Score
from unbroken.keeper import Keeper
from unbroken.progress import Progress
from unbroken.recording import Recorder
from unbroken.stopping import StopRequest
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter


class LeaveTraining(Exception):
    """Raised at a cut to leave a training loop that offers no other way out there."""


@dataclass(frozen=True)
class Surroundings:
    """What a leg gives its learner before it restores or trains.

    `facts` is what belongs into a checkpoint's manifest beside the state, read at the cut; `keep_best` is offered every score;
    `note_missing` is told what a capture does not hold; `journal` is the folder for what environments answer between cuts.
    """

    recorder: Recorder
    keeper: Keeper
    stop: StopRequest
    progress: Progress
    facts: Callable[[], Mapping[str, Any]]
    keep_best: Callable[[Score], None]
    note_missing: Callable[[Sequence[str]], None]
    journal: Path


class Learner(Protocol):
    """A training that has been built from a configuration: made, equipped, restored, trained, closed, by the training thread."""

    @property
    def algorithm(self) -> str:
        """The name under which checkpoints and metadata know it."""
        ...

    @property
    def step(self) -> int:
        """Environment steps taken so far, over all copies and legs."""
        ...

    @property
    def best(self) -> Score | None:
        """The best score of the training so far."""
        ...

    @property
    def episodes(self) -> int:
        """Episodes finished so far."""
        ...

    @property
    def mean_reward(self) -> float | None:
        """Moving average of the training episodes' rewards, None before the first has ended."""
        ...

    def schema(self) -> dict[str, Any]:
        """Shapes that must agree between a checkpoint and a run, as readable text."""
        ...

    def environment_capture(self) -> dict[str, Any]:
        """How the environment's state is captured: `strategy`, None where that is not known, and the `class` of what is."""
        ...

    def equip(self, surroundings: Surroundings) -> None:
        """Take the leg's tools. Called once, before `restore` and `train`."""
        ...

    def restore(self, file: CheckpointFile, gaps: Sequence[str]) -> None:
        """Bring the training into the state of an open checkpoint, whose manifest says that it lacks `gaps`."""
        ...

    def train(self) -> None:
        """Train to the configured target.

        Returns before it when the user's code ends the training. Raises LeaveTraining after the keeper has said so at a cut,
        and StopNow between two cuts.
        """
        ...

    def evaluate_at_end(self) -> None:
        """Offer the final model as the best, unless that has just been done."""
        ...

    def ended(self) -> None:
        """Training and evaluation are over. Raises JournalUnusable where the environments have not come that far."""
        ...

    def save_end(self) -> bool:
        """Save the state at the end and wait for it; returns whether it was committed."""
        ...

    def write_model(self, writer: CheckpointWriter) -> None:
        """Write the members of a model for use."""
        ...

    def close(self) -> None:
        """Close the environments."""
        ...
