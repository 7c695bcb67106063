"""Find the checkpoint to go on from, and say what was found, skipped and why (A7, A12)."""

from __future__ import annotations

from pathlib import Path

from unbroken import logs
from unbroken.store.repository import CheckpointRecord, CheckpointRepository


def find_newest(repository: CheckpointRepository) -> CheckpointRecord | None:
    """The newest checkpoint of which every byte is right, or None; leftovers of killed saves are removed."""
    for name in repository.remove_leftovers():
        logs.checkpoint(f"Removed {name}, an unfinished save of a process that was killed")
    found = repository.records()
    if not found:
        return None
    logs.checkpoint(f"Found {len(found)} checkpoint(s) to restore:")
    for record in found:
        logs.checkpoint(f"  {record.name} ({logs.human_size(record.size)})")
    newest = repository.latest_valid(lambda name, why: logs.warn_checkpoint(f"Skipped {name}: {why}"))
    if newest is None:
        logs.warn_checkpoint("none of them can be used")
    return newest


def say_resumed(path: Path, step: int, episodes: int, mean_reward: float | None, note: str = "") -> None:
    """The two lines that tell where a training goes on."""
    rewards = "none yet" if mean_reward is None else f"{mean_reward:.2f} (mean of the last episodes)"
    logs.checkpoint(f"Resuming from checkpoint: {path}")
    logs.checkpoint(f"Resume: timestep={step}, episode={episodes}, rewards={rewards}{note}")


def repeated_steps(now: int, saved: int, why: str) -> str:
    """The line for a leg that ends between cuts: what the next one will do again."""
    return (
        f"Stopping at step {now:,} without a new checkpoint ({why}): {now - saved:,} steps since step {saved:,} "
        "will be repeated"
    )
