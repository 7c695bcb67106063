"""Copies of the user's folder in which a training runs, so that the folder itself is neither written nor resumed from.

Left out of a copy are hidden folders, virtual environments, caches and what earlier trainings left: a proof begins at step 0.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unbroken.errors import UsageError
from unbroken.folder import RUN_FILE
from unbroken.logs import human_size

_MOST_BYTES = 1_000_000_000
_MOST_FILES = 20_000
_LEFT_OUT_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages", "quarantine"})
_LEFT_OUT_FILES = (
    "*_steps.zip",
    "*_training_metadata.json",
    "*.lock",
    "*.tmp",
    "events.out.tfevents.*",
    "*.monitor.csv",
)


@dataclass(frozen=True)
class Command:
    """A training that `unbroken prove` starts again and again: a script, or a target of `unbroken train`."""

    name: str
    arguments: tuple[str, ...]
    root: Path | None
    script: Path | None = None
    copied: tuple[str, ...] = field(default=())

    @property
    def text(self) -> str:
        """What the user would type."""
        head = ["python", self.name] if self.script else ["unbroken", "train", self.name]
        return " ".join([*head, *self.arguments])

    def place(self, folder: Path) -> Path:
        """A fresh copy of the folder below `folder`; returns where the training is to start."""
        where = folder / "work"
        where.mkdir(parents=True)
        if self.root is not None:
            copy_folder(self.root, where, self.copied, self.script)
        return where

    def words(self, where: Path) -> list[str]:
        """Arguments of the Python interpreter that start the training in its copy."""
        guarded = ["-m", "unbroken.proving.child", str(self.root or ""), str(where)]
        if self.script is None:
            return [*guarded, "train", self.name, *self.arguments, "--runs-dir", str(where / "runs"), "--run", "proof"]
        assert self.root is not None
        return [*guarded, "script", str(where / self.script.relative_to(self.root)), *self.arguments]


def script_command(path: Path, arguments: Sequence[str], copied: Sequence[str] = ()) -> Command:
    """The command of a user's script; what is copied is the working folder, or the script's where it lies elsewhere.

    Raises UsageError for a script that does not use unbroken, with what to add.
    """
    script = path.resolve()
    here = Path.cwd().resolve()
    root = here if script.is_relative_to(here) else script.parent
    if not _mentions_unbroken(script):
        raise UsageError(HOW_TO_ADD.format(script=path.name))
    return Command(str(path), tuple(arguments), root, script, tuple(copied))


HOW_TO_ADD = """{script} does not use unbroken, so nothing of it can be resumed yet. Two lines make it resumable:
  checkpoints = RotatingCheckpointCallback(save_freq=1_000, save_path="checkpoints")   # from unbroken.sb3 import ...
  model = resume_or_create(PPO, "MlpPolicy", env, checkpoints, seed=0)                # instead of PPO("MlpPolicy", env, seed=0)
and model.learn(..., callback=checkpoints)"""


def _mentions_unbroken(script: Path) -> bool:
    """Whether the script, or a module beside it that it imports, directly or over others, names the package."""
    waiting, seen = [script], {script}
    while waiting:
        text = waiting.pop().read_text(encoding="utf-8", errors="replace")
        if re.search(r"\b(import|from) +unbroken\b|import_module\(", text):
            return True
        named = {
            name
            for line in re.findall(r"^\s*(?:from|import) +([^#\n]+)", text, re.M)
            for name in re.findall(r"\w+", line)
        }
        # a package's modules count as imported with it
        found = [
            path for name in named for path in (script.parent / f"{name}.py", *(script.parent / name).glob("*.py"))
        ]
        waiting += [path for path in found if path.is_file() and path not in seen]
        seen.update(found)
    return False


def target_command(target: str, arguments: Sequence[str], copied: Sequence[str] = ()) -> Command:
    """The command of a target; the working folder is copied where target or arguments may name something in it."""
    local = any(":" in word or Path(word).exists() for word in (target, *arguments))
    return Command(target, tuple(arguments), Path.cwd().resolve() if local or copied else None, None, tuple(copied))


def copy_folder(source: Path, target: Path, named: Sequence[str] = (), script: Path | None = None) -> None:
    """Copy a folder, or only what is `named` in it and Python files. Raises UsageError where that is too much."""
    chosen = [path for name in named for path in _named(source, name)]
    paths = [path for path in _files(source) if not named or path.suffix == ".py"]
    total = 0
    for count, path in enumerate(dict.fromkeys([*chosen, *paths, *([script] if script else [])])):
        total += path.stat().st_size
        if total > _MOST_BYTES or count > _MOST_FILES:
            raise UsageError(
                f"{source} is too large to be copied (over {human_size(_MOST_BYTES)} or {_MOST_FILES:,} files); say what "
                "the training reads with --copy NAME, as often as needed (Python files are always copied)"
            )
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)


def _named(source: Path, name: str) -> list[Path]:
    path = (source / name).resolve()
    if not path.exists() or not path.is_relative_to(source):
        raise UsageError(f"--copy {name}: there is no such file or folder in {source}")
    return [path] if path.is_file() else [Path(base) / file for base, _, files in os.walk(path) for file in files]


def _files(source: Path) -> Iterator[Path]:
    for base, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if not _is_left_out(Path(base) / name))
        for name in sorted(files):
            path = Path(base) / name
            if path.is_file() and not any(fnmatch.fnmatch(name, pattern) for pattern in _LEFT_OUT_FILES):
                yield path


def _is_left_out(folder: Path) -> bool:
    return (
        folder.name.startswith(".")
        or folder.name in _LEFT_OUT_FOLDERS
        or (folder / "pyvenv.cfg").exists()
        or (folder / RUN_FILE).exists()
    )
