"""TensorBoard files that SB3's own logger writes in a user's script: cut on resume where the checkpoint was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import TensorBoardOutputFormat

from unbroken import logs
from unbroken.store.append import AppendFile, cut_file
from unbroken.store.durable import LocalBackend, move_aside


def _writers(model: BaseAlgorithm) -> Iterator[Any]:
    logger = getattr(model, "_logger", None)
    for output in getattr(logger, "output_formats", []):
        if isinstance(output, TensorBoardOutputFormat) and output.writer is not None:
            yield output.writer


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*")) if folder.is_dir() else []


def event_positions(model: BaseAlgorithm, base: Path) -> dict[str, int]:
    """Flush, then the size of every event file in the folders that the logger writes to, by absolute path."""
    positions = {}
    for writer in _writers(model):
        writer.flush()
        for path in _event_files(Path(writer.log_dir).absolute()):
            positions[str(path)] = path.stat().st_size
    return positions


def sync_event_files(model: BaseAlgorithm) -> None:
    """Make the event files durable."""
    for writer in _writers(model):
        for path in _event_files(Path(writer.log_dir).absolute()):
            file = AppendFile(path)
            file.sync()
            file.close()


def cut_event_files(positions: Mapping[str, int], base: Path) -> None:
    """Cut event files back to their positions; files begun after the checkpoint move aside. All that goes is archived."""
    archive = base.absolute() / "archive"
    for folder in {Path(name).parent for name in positions}:
        for path in _event_files(folder):
            if str(path) not in positions:
                moved = move_aside(
                    LocalBackend(Path(path.anchor)),
                    path.relative_to(path.anchor).as_posix(),
                    archive.relative_to(archive.anchor).as_posix(),
                )
                logs.checkpoint(f"Moved {path.name}, which holds only repeated steps, to {Path(path.anchor) / moved}")
            elif (cut := cut_file(path, positions[str(path)], archive)) > 0:
                logs.checkpoint(
                    f"Cut {path.name} back to the checkpoint ({cut} bytes of repeated steps kept in archive/)"
                )
