"""The files of SB3's Monitor in a user's script: cut on resume where the checkpoint was made, or said to be begun anew.

Monitor opens its file before any code of ours runs, and by default truncates it then. Files of worker processes are not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from unbroken import logs
from unbroken.capture.vector_environments import vector_layers
from unbroken.learners.events import file_key, file_of_key
from unbroken.store.append import AppendFile, cut_file


def _layers(venv: VecEnv) -> Iterator[Any]:
    """The vector environment's layers, and those of each environment in this process."""
    stack = list(vector_layers(venv))
    yield from stack
    for env in stack[-1].envs if isinstance(stack[-1], DummyVecEnv) else []:
        layer: Any = env
        while layer is not None:
            yield layer
            layer = vars(layer).get("env")


def _handles(venv: VecEnv) -> Iterator[Any]:
    for layer in _layers(venv):
        handle = getattr(vars(layer).get("results_writer"), "file_handler", None)
        if handle is not None and not handle.closed:
            yield handle


def monitor_positions(venv: VecEnv, base: Path) -> dict[str, int]:
    """Flush, then the size of every Monitor file, by its `file_key`."""
    positions = {}
    for handle in _handles(venv):
        handle.flush()
        positions[file_key(Path(handle.name), base)] = Path(handle.name).stat().st_size
    return positions


def sync_monitor_files(venv: VecEnv) -> None:
    """Make the Monitor files durable."""
    for handle in _handles(venv):
        file = AppendFile(Path(handle.name))
        file.sync()
        file.close()


def continue_monitor_files(venv: VecEnv, positions: Mapping[str, int], base: Path) -> None:
    """Cut the files that Monitor appends to back to the checkpoint, and warn of those that it begins anew at every start."""
    known = {file_of_key(key, base): position for key, position in positions.items()}
    for handle in _handles(venv):
        path = Path(handle.name)
        position = known.get(path.resolve())
        if handle.mode.startswith("w"):
            _say_begun_anew(path, position)
        elif position is not None:
            _cut(path, position, base)


def _cut(path: Path, position: int, base: Path) -> None:
    difference = cut_file(path, position, base.resolve() / "archive")
    if difference > 0:
        logs.checkpoint(
            f"Cut {path.name} back to the checkpoint ({difference} bytes of repeated episodes kept in archive/)"
        )
    elif difference < 0:
        logs.warn_checkpoint(
            f"{path} is {-difference} bytes shorter than when the checkpoint was made: rows are missing"
        )


def _say_begun_anew(path: Path, position: int | None) -> None:
    """On a first leg a note: a script that keeps the file from the second on begins it as well."""
    way_out = f"give Monitor override_existing=not os.path.exists({str(path)!r}), or each start a file of its own (VecMonitor)"
    if position is None:
        logs.checkpoint(
            f"Note: Stable-Baselines3 began {path.name} anew; unless told otherwise it does so at every start of the script, and "
            f"the episodes of earlier legs are lost: to keep them, {way_out}"
        )
    else:
        logs.warn_checkpoint(
            f"Stable-Baselines3 began {path.name} anew: its {position} bytes with the episodes of earlier legs are gone; "
            f"to keep them from now on, {way_out}"
        )
