"""Find the checkpoint to go on from, and say what was found, skipped and why (A7, A12)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unbroken import logs
from unbroken.errors import DamagedFile, StorageError
from unbroken.store.repository import CheckpointRecord, CheckpointRepository


def find_newest(repository: CheckpointRepository, way_out: str | None = None) -> CheckpointRecord | None:
    """The newest checkpoint of which every byte is right, or None; leftovers of killed saves are removed.

    With a `way_out` from it, a folder of which nothing is left is an error that names it: DamagedFile, or StorageError if
    something cannot be read now. Files that are not ours do not count.
    """
    for name in repository.remove_leftovers():
        logs.checkpoint(f"Removed {name}, an unfinished save of a process that was killed")
    found = repository.records()
    if not found:
        return None
    logs.checkpoint(f"Found {len(found)} checkpoint(s) to restore:")
    for record in found:
        logs.checkpoint(f"  {record.name} ({logs.human_size(record.size)})")
    newest, skipped = repository.search(lambda name, why: logs.warn_checkpoint(f"Skipped {name}: {why}"))
    if newest is None:
        logs.warn_checkpoint("none of them can be used")
        if way_out is not None:
            _refuse(skipped, way_out)
    return newest


def require_never_saved(metadata: Mapping[str, Any], name: str, place: Path, way_out: str) -> None:
    """Raise DamagedFile if the metadata tells of checkpoints that are gone: moved to quarantine earlier, or lost."""
    reached = metadata.get("total_timesteps_completed")
    if isinstance(reached, int) and reached > 0:
        raise DamagedFile(
            f"{name!r} had reached step {reached:,}, says its metadata, and no checkpoint of it is left in {place}; {way_out}"
        )


def _refuse(skipped: list[CheckpointRecord], way_out: str) -> None:
    ours = ", ".join(record.name for record in skipped if not record.foreign)
    unreadable = [record for record in skipped if record.unreadable]
    if unreadable:
        raise StorageError(
            f"no checkpoint can be used: {unreadable[0].problem}; run the same command again when it can"
        )
    if ours:
        raise DamagedFile(f"no checkpoint can be used: {ours} (damaged; they were kept, in quarantine/); {way_out}")


def say_resumed(path: Path, step: int, episodes: int, mean_reward: float | None, note: str = "") -> None:
    """The two lines that tell where a training goes on."""
    rewards = "none yet" if mean_reward is None else f"{mean_reward:.2f} (mean of the last episodes)"
    logs.checkpoint(f"Resuming from checkpoint: {path}")
    logs.checkpoint(f"Resume: timestep={step}, episode={episodes}, rewards={rewards}{note}")


def repeated_steps(now: int, saved: int | None, why: str) -> str:
    """The line for a leg that ends without a checkpoint of its last step: what the next one will do again."""
    if saved is None:
        return (
            f"Stopping at step {now:,} ({why}): stopped before the first checkpoint; all {now:,} steps will be repeated"
        )
    if now == saved:
        return f"Stopping at step {now:,} ({why}): everything up to here is safe, nothing will be repeated"
    return (
        f"Stopping at step {now:,} without a new checkpoint ({why}): {now - saved:,} steps since step {saved:,} "
        "will be repeated"
    )
