"""Look at every file of a source and say what it is, training files by their content. Nothing is written or unpickled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from unbroken.errors import DamagedFile, UnbrokenError, UsageError
from unbroken.importing.found import Found, companions, steps_in_name
from unbroken.importing.pickled import SCHEDULES, is_pickled, schedule
from unbroken.importing.pytorch_file import read_pytorch_file
from unbroken.importing.sb3_zip import NotSB3, SB3Zip, algorithm_of, policy_of, read_sb3_zip, space_of
from unbroken.importing.walk_forward import is_of_iteration
from unbroken.store.backend import checked_path
from unbroken.store.checkpoint_file import CheckpointFile, ForeignFile, NewerFormat
from unbroken.store.durable import LocalBackend
from unbroken.store.segments import verify_segments

_OFF_POLICY = frozenset({"dqn", "qrdqn", "sac", "td3", "ddpg", "tqc", "crossq"})
_PICKLES = {
    "replay_buffer": "replay buffer",
    "vecnormalize": "normalisation (VecNormalize)",
    "vec_normalize": "normalisation (VecNormalize)",
}
_ALWAYS_MISSING = ("random number generators", "environment state", "episode statistics (a pickle)")


class Source:
    """A folder of an earlier trainer, or one file of it with what CheckpointCallback put beside.

    `left_out` says of what is not taken why, by its path.
    """

    def __init__(self, path: Path, runs_dir: Path) -> None:
        if not path.exists():
            raise UsageError(f"there is nothing at {path}; name the folder of the earlier trainer, or one of its files")
        self.path = path
        self.root = path if path.is_dir() else path.parent
        self.left_out: dict[str, str] = {}
        self._runs_dir = runs_dir.resolve()
        names = sorted(self._walk()) if path.is_dir() else self._with_companions()
        self.names = [name for name in names if self._can_be_carried(name)]
        if not self.names:
            raise UsageError(f"there is no file to import in {path}")

    def look(self) -> list[Found]:
        """What each file is, in the order of their paths."""
        return [_recognised(self.root, name) for name in self.names]

    def _with_companions(self) -> list[str]:
        beside = companions(self.path.name).values()
        return sorted([self.path.name, *(name for name in beside if (self.root / name).is_file())])

    def _walk(self) -> Iterator[str]:
        for folder, inner, names in os.walk(self.root, onerror=self._cannot_enter):
            place = Path(folder)
            inner[:] = [name for name in inner if self._is_entered(place / name)]
            for name in names:
                relative = (place / name).relative_to(self.root).as_posix()
                if (place / name).is_symlink():
                    self.left_out[relative] = "a link, not followed"
                elif (place / name).is_file():
                    yield relative
                else:
                    self.left_out[relative] = "not a plain file"

    def _cannot_enter(self, error: OSError) -> None:
        self.left_out[str(error.filename)] = f"cannot be read: {error.strerror}"

    def _is_entered(self, folder: Path) -> bool:
        relative = folder.relative_to(self.root).as_posix()
        if folder.is_symlink():
            self.left_out[relative] = "a link, not followed"
        elif folder.resolve() == self._runs_dir:
            self.left_out[relative] = "the folder of the runs itself"
        else:
            return True
        return False

    def _can_be_carried(self, name: str) -> bool:
        try:
            checked_path(name).encode("utf-8")
        except (UsageError, UnicodeEncodeError):
            self.left_out[name.encode("utf-8", "backslashreplace").decode()] = "a name not for every system; rename it"
            return False
        return True


def _recognised(root: Path, name: str) -> Found:
    path = root / name
    size = path.stat().st_size
    try:
        return _by_content(root, name, size)
    except NotSB3 as error:
        return Found(name, size, "unusable", "zip", problem=str(error))
    except DamagedFile as error:
        return Found(name, size, "damaged", "damaged", steps=steps_in_name(path.name), problem=str(error))
    except OSError as error:
        return Found(name, size, "damaged", "unreadable", problem=f"cannot be read: {error.strerror or error}")


def _by_content(root: Path, name: str, size: int) -> Found:
    path = root / name
    if path.suffix in (".zip", ".pt", ".pth"):
        ours = _ours(root, name, size)
        if ours is not None:
            return ours
        return _sb3(name, size, read_sb3_zip(path)) if path.suffix == ".zip" else _weights(name, size, path)
    if path.suffix in (".pkl", ".pickle"):
        return _pickle(name, size)
    if path.name == "evaluations.npz":
        return Found(name, size, "evaluations", "scores of an EvalCallback")
    if is_of_iteration(path.name):
        return Found(name, size, "iteration", "of a walk-forward iteration")
    return Found(name, size, "other", "kept as it is")


def _ours(root: Path, name: str, size: int) -> Found | None:
    """A checkpoint or model of ours, None for a file that is none. Raises DamagedFile for a damaged one of ours."""
    with CheckpointFile(LocalBackend(root), name) as file:
        try:
            manifest = file.manifest
        except NewerFormat as error:
            return Found(name, size, "unusable", "checkpoint of a newer unbroken", problem=str(error))
        except ForeignFile:
            return None
        except DamagedFile:
            # a zip that is cut off, or a `.pt` that is no zip at all: its own reader says more
            return None
        file.verify()
        rolling = manifest.get("kind") in ("rollout", "end")
        problem = _segments_problem(file) if rolling else None
    says = f"{'checkpoint' if rolling else 'model for use'} of unbroken, run {manifest.get('run')}"
    return Found(
        name,
        size,
        "unbroken checkpoint",
        says,
        steps=manifest.get("step"),
        algorithm=(manifest.get("config") or {}).get("algo"),
        observation=(manifest.get("schema") or {}).get("observation_space"),
        action=(manifest.get("schema") or {}).get("action_space"),
        missing=() if rolling else ("training state",),
        problem=problem,
    )


def _segments_problem(file: CheckpointFile) -> str | None:
    try:
        verify_segments(file, set())
    except UnbrokenError as error:
        return str(error)
    return None


def _sb3(name: str, size: int, file: SB3Zip) -> Found:
    algorithm, policy = algorithm_of(file), policy_of(file)
    observation, action = (space_of(file.data.get(f"{which}_space")) for which in ("observation", "action"))
    return Found(
        name,
        size,
        "sb3 zip",
        f"plain Stable-Baselines3 {file.version or '(of an unknown version)'}",
        steps=file.steps if file.steps is not None else steps_in_name(Path(name).name),
        algorithm=algorithm,
        policy=None if policy is None else policy.rpartition(":")[2],
        observation=None if observation is None else str(observation),
        action=None if action is None else str(action),
        missing=_missing(file, algorithm),
    )


def _missing(file: SB3Zip, algorithm: str | None) -> tuple[str, ...]:
    optimizer = () if any("optimizer" in state for state in file.states) else ("optimizer",)
    replay = ("replay buffer",) if algorithm in _OFF_POLICY else ()
    pickled = (name for name in SCHEDULES if is_pickled(file.data.get(name)) and schedule(file.data[name]) is None)
    return (*optimizer, *replay, *(f"{name} (a pickle)" for name in pickled), *_ALWAYS_MISSING)


def _weights(name: str, size: int, path: Path) -> Found:
    file = read_pytorch_file(path)
    if "actor" not in file.parts:
        return Found(name, size, "unusable", "tensors", steps=file.steps, problem=f"{path.name} has no actor")
    missing = (*file.missing, "random number generators", "environment state")
    says = f"PyTorch weights ({', '.join(part.replace('_', ' ') for part in file.parts)})"
    return Found(name, size, "weights", says, steps=file.steps, algorithm="ppo_torch", missing=missing)


def _pickle(name: str, size: int) -> Found:
    what = next((text for key, text in _PICKLES.items() if key in Path(name).name.lower()), "pickle")
    problem = "a pickle: loading it would run whatever code it names, so it is kept and not loaded"
    return Found(name, size, "pickle", what, steps=steps_in_name(Path(name).name), problem=problem)
