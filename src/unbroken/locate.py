"""Find a checkpoint by what people type: a path, `RUN` (its newest), `RUN@STEP`, `RUN@final`, `RUN@best`."""

from __future__ import annotations

import contextlib
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbroken.errors import DamagedFile, NotFound
from unbroken.folder import FileNames, RunFolder, file_names
from unbroken.store.checkpoint_file import CheckpointFile, read_manifest
from unbroken.store.durable import LocalBackend
from unbroken.store.repository import CheckpointRecord, CheckpointRepository

SUFFIXES = (".zip", ".pt")


@dataclass(frozen=True)
class Place:
    """A checkpoint file: `path` relative to the root of `backend`; `run` is the folder it belongs to, if any."""

    backend: LocalBackend
    path: str
    run: RunFolder | None

    def open(self) -> CheckpointFile:
        """The file, to be used as a context."""
        return CheckpointFile(self.backend, self.path)

    @property
    def file(self) -> Path:
        """The path on this machine."""
        return self.backend.local_path(self.path)


def scenario_of(folder: RunFolder) -> str:
    """The scenario of a run, from its configuration or metadata, else from its checkpoints' names."""
    stored = folder.stored() or {}
    config: dict[str, Any] = stored.get("config", {})
    found = config.get("scenario") or folder.metadata().get("scenario")
    if found:
        return str(found)
    for entry in folder.backend.entries("checkpoints"):
        if "_checkpoint_" in entry.name:
            return entry.name.rpartition("_checkpoint_")[0]
        if entry.name.endswith(".pt"):
            with contextlib.suppress(DamagedFile, KeyError, OSError):
                return str(read_manifest(folder.backend, f"checkpoints/{entry.name}")["scenario"])
    raise NotFound(f"run {folder.name!r} in {folder.runs_dir} has no configuration and no checkpoints")


def names_of(folder: RunFolder, scenario: str, algo: str | None = None) -> FileNames:
    """The names of a run's files: by the algorithm given or stored, else by what lies in the folder."""
    algo = algo or ((folder.stored() or {}).get("config") or {}).get("algo")
    if algo is None and any(entry.name.endswith(".pt") for entry in folder.backend.entries("checkpoints")):
        algo = "ppo_torch"
    return file_names(scenario, algo)


def repository_of(folder: RunFolder, scenario: str | None = None, algo: str | None = None) -> CheckpointRepository:
    """The rolling checkpoints of a run."""
    scenario = scenario or scenario_of(folder)
    names = names_of(folder, scenario, algo)
    return CheckpointRepository(folder.backend, names.prefix, scenario=scenario, ending=names.ending)


def existing_run(runs_dir: Path, name: str) -> RunFolder:
    """The folder of a run that exists. Raises NotFound with the nearest name."""
    folder = RunFolder(runs_dir, name)
    if not folder.path.is_dir():
        names = [path.name for path in runs_dir.iterdir() if path.is_dir()] if runs_dir.is_dir() else []
        near = difflib.get_close_matches(name, names, n=1)
        some = ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else "")
        hint = f"; did you mean {near[0]!r}?" if near else f" (runs there: {some or 'none'})"
        raise NotFound(f"there is no run {name!r} in {runs_dir}{hint}")
    return folder


def find_checkpoint(text: str, runs_dir: Path) -> Place:
    """The checkpoint that a text names. Raises NotFound, saying what there is."""
    path = Path(text)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise NotFound(f"there is no checkpoint file {text}")
        parents = path.absolute().parents
        if parents[0].name == "checkpoints":
            run = RunFolder(parents[2], parents[1].name)
            return Place(run.backend, f"checkpoints/{path.name}", run)
        return Place(LocalBackend(parents[0]), path.name, None)
    name, _, which = text.partition("@")
    folder = existing_run(runs_dir, name)
    if which in ("best", "final"):
        names = names_of(folder, scenario_of(folder))
        relative = names.best if which == "best" else names.final
        if not folder.backend.exists(relative):
            raise NotFound(f"run {name!r} has no {which} model yet")
        return Place(folder.backend, relative, folder)
    return Place(folder.backend, _rolling(folder, which).path, folder)


def _rolling(folder: RunFolder, which: str) -> CheckpointRecord:
    records = [record for record in repository_of(folder).records() if not record.foreign]
    if not which or which == "latest":
        usable = [record for record in records if record.valid is not False]
        if not usable:
            raise NotFound(f"run {folder.name!r} has no checkpoint that can be read")
        return usable[-1]
    if not which.isdigit():
        raise NotFound(f"{which!r} is not a step; write {folder.name}@STEP, @latest, @best or @final")
    found = next((record for record in records if record.step == int(which)), None)
    if found is None:
        steps = ", ".join(f"{record.step}" for record in records) or "none"
        raise NotFound(f"run {folder.name!r} has no checkpoint of step {which} (steps: {steps})")
    return found
