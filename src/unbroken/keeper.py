"""What happens at a cut: is a save due, capture, commit, retention, metadata, signals, deadline.

The command, the callback for a user's own script and hand-written loops use the same keeper. A save that fails warns and is
tried again at the next interval; training goes on and the last good checkpoint stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from unbroken import logs
from unbroken.background import BackgroundWriter
from unbroken.errors import StorageError, UnbrokenError
from unbroken.restoring import repeated_steps
from unbroken.retention import apply as retention
from unbroken.retention.policy import Policy, plan
from unbroken.stopping import StopRequest
from unbroken.store.checkpoint_file import CheckpointWriter
from unbroken.store.repository import CheckpointRecord, CheckpointRepository


@dataclass(frozen=True)
class Snapshot:
    """A consistent copy of a training at a cut.

    `fill` writes its members, perhaps later and in another thread, and returns what is known only then for the commit record;
    `committed` is called in that thread when the checkpoint is on disk.
    """

    step: int
    kind: str
    fill: Callable[[CheckpointWriter], Mapping[str, Any] | None]
    facts: Mapping[str, Any] = field(default_factory=dict)
    committed: Callable[[], None] = lambda: None


class Capture(Protocol):
    """Makes a snapshot of the training as it stands."""

    def __call__(self) -> Snapshot: ...


@dataclass
class SaveSchedule:
    """When a checkpoint is due: every so many environment steps, every so many seconds, or both.

    `settled` tells it that a checkpoint of a step exists, so that a resumed leg does not save at once.
    """

    every: int | None = 10_000
    seconds: float | None = None

    def __post_init__(self) -> None:
        self.settled(0)

    def settled(self, step: int) -> None:
        """A checkpoint of `step` has been started or restored."""
        self._step = step
        self._time = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether a multiple of the interval, or the time, has passed since the last checkpoint."""
        by_steps = self.every is not None and step // self.every > self._step // self.every
        return by_steps or (
            self.seconds is not None and time.monotonic() - self._time >= self.seconds and step > self._step
        )


class Keeper:
    """Decides and saves at cuts. `at_cut`, `save` and `close` are called by the training thread.

    `before_commit` and `after_commit` run in the writing thread, around the commit; an error of theirs is said and no more.
    """

    def __init__(
        self,
        repository: CheckpointRepository,
        schedule: SaveSchedule,
        policies: Sequence[Policy],
        *,
        before_commit: Callable[[], None] = lambda: None,
        after_commit: Callable[[CheckpointRecord, Mapping[str, Any]], None] = lambda record, facts: None,
        in_background: bool = True,
    ) -> None:
        self.repository = repository
        self.schedule = schedule
        self.saved = 0
        self.stall_seconds = 0.0
        self.write_seconds = 0.0
        self.last_record: CheckpointRecord | None = None
        self.newest_step: int | None = None
        # a journal leads beyond the newest checkpoint, and lets a leg end without waiting for the next cut
        self.newest_point: int | None = None
        self.longest_wait: Callable[[float], float] = lambda rollout: rollout
        self._policies = policies
        self._before_commit = before_commit
        self._after_commit = after_commit
        self._writer = BackgroundWriter()
        self._in_background = in_background
        self._failed = False
        self._previous_cut: float | None = None
        self._longest_rollout = 0.0
        self._began_at = 0

    def at_cut(self, step: int, capture: Capture, stop: StopRequest) -> bool:
        """Save if a checkpoint is due; returns True after a last save if the leg has to end here.

        A last save that fails is said, with the steps to be repeated; raises StorageError if there is no checkpoint at all.
        """
        self._measure_rollout()
        if step > self._began_at:
            # a leg whose deadline is too short for anything still does one rollout: run again and again, it gets somewhere
            stop.check_deadline(self._seconds_needed())
        if stop.reason is not None:
            logs.checkpoint(f"Stopping at step {step:,}: {stop.reason}")
            if not self.save(capture, wait=True):
                self.without_last_save(step)
            return True
        if self.schedule.is_due(step) and not self.save(capture):
            # not at every cut from now on: at the next interval
            self.schedule.settled(step)
        return False

    def begins_at(self, step: int) -> None:
        """The training was restored from the checkpoint of `step`."""
        self.schedule.settled(step)
        self.newest_step = self._began_at = step

    def save(self, capture: Capture, *, wait: bool = False) -> bool:
        """Capture now and commit, in the background unless `wait`; returns False if a waited-for commit failed."""
        started = time.perf_counter()
        self._writer.drain()
        try:
            snapshot = capture()
        except Exception as error:  # noqa: BLE001 - capturing runs the user's code, and no save may end a training
            self._warn(f"no checkpoint could be captured: {reason_of(error)}")
            return False
        self.schedule.settled(snapshot.step)
        self._failed = False
        if self._in_background:
            self._writer.submit(lambda: self._commit(snapshot))
        else:
            self._commit(snapshot)
        if wait:
            self._writer.drain()
        self.stall_seconds = time.perf_counter() - started
        return not (wait and self._failed)

    def close(self) -> None:
        """Wait for the last save, and need no thread until there is another."""
        self._writer.close()

    def drain(self, timeout: float) -> bool:
        """Wait a limited time for the save in progress; from any thread."""
        return self._writer.drain(timeout)

    def _commit(self, snapshot: Snapshot) -> None:
        started = time.perf_counter()
        try:
            self._before_commit()
            moved = self.repository.make_way(snapshot.step)
            if moved is not None:
                self._warn(f"moved a file of another training from where the next checkpoint goes to {moved}")
            self.last_record = self.repository.save(snapshot.step, lambda writer: self._filled(snapshot, writer))
        except Exception as error:  # noqa: BLE001 - serialising runs the user's code, and no save may end a training
            self._failed = True
            self._warn(
                f"checkpoint of step {snapshot.step:,} was not saved: {reason_of(error)}; training goes on, "
                "the last good checkpoint stays, the next save tries again"
            )
            return
        self.saved += 1
        self.newest_step = self.last_record.step
        self.write_seconds = max(self.write_seconds, time.perf_counter() - started)
        logs.checkpoint(f"Saved {self.last_record.path} ({logs.human_size(self.last_record.size)})")
        self._tidy(self.last_record, snapshot)

    def _filled(self, snapshot: Snapshot, writer: CheckpointWriter) -> dict[str, Any]:
        found = snapshot.fill(writer) or {}
        return {**snapshot.facts, **found, "kind": snapshot.kind}

    def without_last_save(self, step: int) -> None:
        """Say that the leg ends without a checkpoint of `step`; raises StorageError if there is none at all."""
        if self.newest_step is None:
            raise StorageError(
                f"stopped at step {step:,}, its checkpoint could not be saved and there is none before it; make room and run "
                "the same command again, it begins at the start"
            )
        self._warn(repeated_steps(step, self.newest_step, "it could not be saved"))

    def _tidy(self, record: CheckpointRecord, snapshot: Snapshot) -> None:
        """What follows a commit. The checkpoint is safe: whatever fails here only warns."""
        try:
            snapshot.committed()
        except Exception as error:  # noqa: BLE001 - as above
            self._warn(f"what the checkpoint makes superfluous was not tidied up: {reason_of(error)}")
        try:
            self._after_commit(record, snapshot.facts)
        except Exception as error:  # noqa: BLE001 - as above
            self._warn(f"the metadata beside the checkpoints was not written: {reason_of(error)}")
        try:
            self._rotate()
        except Exception as error:  # noqa: BLE001 - as above
            self._warn(f"old checkpoints were not rotated out: {reason_of(error)}")

    def _rotate(self) -> None:
        records = self.repository.records()
        unreadable = [record for record in records if record.unreadable]
        if unreadable:
            self._warn(f"nothing is rotated out now: {unreadable[0].problem}")
            return
        decisions = plan(records, self._policies)
        rules = ", ".join(str(policy) for policy in self._policies)
        retention.apply(decisions, self.repository.remove, lambda removal: self._report(removal, rules))
        self.repository.collect_segments()

    def _report(self, removal: retention.Removal[CheckpointRecord], rules: str) -> None:
        if removal.error is None:
            logs.checkpoint(f"Rotated out {removal.record.name} (rule: {rules})")
        else:
            self._warn(f"{removal.record.name} could not be rotated out: {removal.error}")

    def _warn(self, message: str) -> None:
        logs.warn_checkpoint(message)

    def _measure_rollout(self) -> None:
        now = time.monotonic()
        if self._previous_cut is not None:
            self._longest_rollout = max(self._longest_rollout, now - self._previous_cut)
        self._previous_cut = now

    def _seconds_needed(self) -> float:
        """Time for one more rollout and the last save: measured maxima, saves doubled, two seconds to spare."""
        return self.longest_wait(self._longest_rollout) + 2 * self.write_seconds + 2.0


def reason_of(error: Exception) -> str:
    """An error in one line: of ours and of the storage its message, of others the kind too."""
    return str(error) if isinstance(error, OSError | UnbrokenError) else f"{type(error).__name__}: {error}"
