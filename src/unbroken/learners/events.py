"""TensorBoard files that SB3's own logger writes in a user's script: cut on resume where the checkpoint was made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import TensorBoardOutputFormat

from unbroken import logs
from unbroken.store.append import AppendFile, cut_file
from unbroken.store.durable import LocalBackend, move_aside

_PREFIX = "events.out.tfevents."


def _writers(model: BaseAlgorithm) -> Iterator[Any]:
    logger = getattr(model, "_logger", None)
    for output in getattr(logger, "output_formats", []):
        if isinstance(output, TensorBoardOutputFormat) and output.writer is not None:
            yield output.writer


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*")) if folder.is_dir() else []


def event_positions(model: BaseAlgorithm, base: Path) -> dict[str, int]:
    """Flush, then the size of every event file in the folders that the logger writes to, by its `file_key`."""
    positions = {}
    for writer in _writers(model):
        writer.flush()
        for path in _event_files(Path(writer.log_dir)):
            positions[file_key(path, base)] = path.stat().st_size
    return positions


def file_key(path: Path, base: Path) -> str:
    """How a checkpoint in `base` names another file: from there, so that both may move together, or from the working folder."""
    path, base, here = path.resolve(), base.resolve(), Path.cwd()
    start = here if path.is_relative_to(here) and not base.is_relative_to(here) else base
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:
        # on another drive of Windows
        return str(path)


def file_of_key(key: str, base: Path) -> Path:
    """The file that is meant now, whether or not it is there. Absolute keys are those of earlier checkpoints."""
    found = [Path(os.path.normpath(start / key)) for start in (base.resolve(), Path.cwd())]
    return next((path for path in found if path.exists()), found[0])


def sync_event_files(model: BaseAlgorithm) -> None:
    """Make the event files durable."""
    for writer in _writers(model):
        for path in _event_files(Path(writer.log_dir)):
            file = AppendFile(path)
            file.sync()
            file.close()


def cut_event_files(positions: Mapping[str, int], base: Path) -> None:
    """Cut event files back to their positions; files begun after the checkpoint move aside. All that goes is archived."""
    archive = base.resolve() / "archive"
    known = {file_of_key(key, base): position for key, position in positions.items() if _PREFIX in key}
    for path in known:
        if not path.exists():
            logs.warn_checkpoint(f"{path} is missing: the curves up to the checkpoint are not continued from it")
    for folder in {path.parent for path in known}:
        for path in _event_files(folder):
            if path not in known:
                moved = move_aside(
                    LocalBackend(Path(path.anchor)),
                    path.relative_to(path.anchor).as_posix(),
                    archive.relative_to(archive.anchor).as_posix(),
                )
                logs.checkpoint(f"Moved {path.name}, which holds only repeated steps, to {Path(path.anchor) / moved}")
            elif (cut := cut_file(path, known[path], archive)) > 0:
                logs.checkpoint(
                    f"Cut {path.name} back to the checkpoint ({cut} bytes of repeated steps kept in archive/)"
                )
