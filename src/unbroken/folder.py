"""The run folder: where everything of a run lies, by name, and what is put aside in it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unbroken.config import check_name
from unbroken.errors import StorageError, UnbrokenError
from unbroken.store.durable import (
    LocalBackend,
    make_folder_durably,
    move_aside,
    remove_leftovers,
    write_bytes_durably,
    write_json_durably,
)

RUN_FILE = "run.yaml"
METADATA = "training_metadata.json"
BEST = "best_model/best_model.zip"
_PYTORCH_BEST, _PYTORCH_FINAL = "best_model/best_model.pt", "final_model.pt"
BEST_SCORE = "best_model/best_model.json"
_SPACE_NEEDED_BYTES = 20_000_000
JOURNAL = "journal"
_ARCHIVED = (
    "checkpoints",
    JOURNAL,
    "best_model",
    "replay",
    "tensorboard",
    "tracking",
    "logs/metrics.jsonl",
    METADATA,
)


@dataclass(frozen=True)
class FileNames:
    """Names of a run's checkpoints, `{prefix}_{step}{ending}`, and of its models: the learner's file format decides."""

    prefix: str
    ending: str
    best: str
    final: str


def file_names(scenario: str, algo: str | None) -> FileNames:
    """The names that an algorithm's files have: Stable-Baselines3's zips, or PyTorch's `.pt`."""
    if algo == "ppo_torch":
        return FileNames("checkpoint", ".pt", _PYTORCH_BEST, _PYTORCH_FINAL)
    return FileNames(f"{scenario}_checkpoint", "_steps.zip", BEST, f"{scenario}_final.zip")


@dataclass(frozen=True)
class RunFolder:
    """`runs_dir/name`; making the object touches nothing."""

    runs_dir: Path
    name: str

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def path(self) -> Path:
        """The run's own folder."""
        return self.runs_dir / self.name

    @property
    def backend(self) -> LocalBackend:
        """The run's files as the store sees them."""
        return LocalBackend(self.path)

    @property
    def lock_path(self) -> Path:
        """The file whose lock means that a process carries the run."""
        return self.path / ".lock"

    @property
    def log_path(self) -> Path:
        """The log of all legs."""
        return self.path / "logs" / "run.log"

    def prepare(self) -> list[Path]:
        """Make the folder and see that it can be written; returns what was made. Raises StorageError with the reason."""
        made: list[Path] = []
        try:
            made += [path for path in (self.path, *self.path.parents) if not path.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            free = self.backend.free_bytes()
            # before the lock: another start may do the same now. The name is one that `remove_leftovers` knows
            probe = f".writable.{os.getpid()}-0.tmp"
            self.backend.create(probe).close()
            with contextlib.suppress(FileNotFoundError):
                self.backend.remove(probe)
        except OSError as error:
            _remove_empty(made)
            raise StorageError(
                f"run folder {self.path} cannot be written: {error}; choose another with --runs-dir"
            ) from error
        if free < _SPACE_NEEDED_BYTES:
            _remove_empty(made)
            raise StorageError(
                f"only {free / 1e6:.0f} MB are free for {self.path}: no room for a checkpoint; "
                "free some or choose another --runs-dir"
            )
        return made

    @contextlib.contextmanager
    def removed_if_refused(self, made: list[Path]) -> Iterator[None]:
        """Within this a start that is refused takes the folders that it has made away again. The caller holds the lock."""
        try:
            yield
        except UnbrokenError:
            if self.path in made:
                with contextlib.suppress(OSError):
                    self._remove_if_hollow()
                _remove_empty(made)
            raise

    def _remove_if_hollow(self) -> None:
        """Remove what every start makes, unless something was stored: the console has the lines of the log."""
        found = sorted(self.path.rglob("*"), reverse=True)
        files = [path for path in found if not path.is_dir()]
        if any(path.stat().st_size for path in files if path not in (self.lock_path, self.log_path)):
            return
        for path in files:
            path.unlink()
        _remove_empty([path for path in found if path not in files])

    def remove_leftovers(self) -> list[str]:
        """Remove the temporary files that killed processes left beside and below the run's own documents; returns names."""
        return [name for folder in ("", "best_model", "archive") for name in remove_leftovers(self.backend, folder)]

    def stored(self) -> dict[str, Any] | None:
        """What `run.yaml` holds, None for a new run or one whose file is unreadable (the checkpoint has a copy)."""
        try:
            loaded = yaml.safe_load((self.path / RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None
        return loaded if isinstance(loaded, dict) and isinstance(loaded.get("config"), dict) else None

    def store(self, content: dict[str, Any]) -> None:
        """Write `run.yaml` durably."""
        text = yaml.dump(content, Dumper=_WithoutAliases, sort_keys=False, allow_unicode=True)
        write_bytes_durably(self.backend, RUN_FILE, text.encode())

    def metadata(self) -> dict[str, Any]:
        """The metadata beside the checkpoints, empty if there is none that can be read."""
        return self._json(METADATA)

    def best_score(self) -> dict[str, Any]:
        """The score beside the best model, empty if there is none that can be read."""
        return self._json(BEST_SCORE)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            loaded = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def write_metadata(self, content: dict[str, Any]) -> None:
        """Write the metadata durably."""
        write_json_durably(self.backend, METADATA, content)

    def archive(self, scenario: str) -> str | None:
        """Move what an earlier training left into `archive/`; returns the new place, None if there was nothing."""
        backend = self.backend
        names = (*_ARCHIVED, f"{scenario}_final.zip", _PYTORCH_FINAL, RUN_FILE)
        present = [name for name in names if backend.exists(name)]
        if not present:
            return None
        stamp = time.strftime("%Y%m%d-%H%M%S")
        number = next(n for n in range(1, 10_000) if not (self.path / "archive" / f"{stamp}-{n}").exists())
        place = f"archive/{stamp}-{number}"
        make_folder_durably(backend, place)
        # run.yaml goes last: until then the folder still reads as the old run, and a repeated --fresh finishes the move
        for name in present:
            move_aside(backend, name, place)
        return place


class _WithoutAliases(yaml.SafeDumper):
    """Writes what stands in two places twice: a reader on another machine takes no aliases (docs/formats/sync.md)."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always."""
        return True


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, as far as they are empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
