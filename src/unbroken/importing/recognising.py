"""Look at every file of a source and say what it is, training files by their content. Nothing is written or unpickled."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unbroken.errors import DamagedFile, UnbrokenError, UsageError
from unbroken.importing.foreign_json import escaped
from unbroken.importing.found import (
    NORMALISATION,
    REPLAY_BUFFER,
    Found,
    companions,
    has_steps_in_name,
    steps_in_name,
)
from unbroken.importing.pickled import SCHEDULES, is_pickled, schedule
from unbroken.importing.pytorch_file import read_pytorch_file
from unbroken.importing.sb3_zip import NotSB3, SB3Zip, algorithm_of, policy_of, read_sb3_zip, space_of, whole
from unbroken.importing.walk_forward import is_of_iteration, numbers, read_document
from unbroken.store.backend import checked_path
from unbroken.store.checkpoint_file import CheckpointFile, ForeignFile, NewerFormat
from unbroken.store.durable import LocalBackend
from unbroken.store.segments import verify_segments

_OFF_POLICY = frozenset({"dqn", "qrdqn", "sac", "td3", "ddpg", "tqc", "crossq"})
_PICKLE_ENDINGS = (".pkl", ".pickle")
_PICKLES = {"replay_buffer": REPLAY_BUFFER, "vecnormalize": NORMALISATION, "vec_normalize": NORMALISATION}
# the class that a pickle is of stands within its first bytes
_HEAD = 512
# bytes of a name: while a copy is written, its name has the number of a process and an ending more
_NAME_LIMIT = 230
_ALWAYS_MISSING = ("random number generators", "environment state", "episode statistics (a pickle)")


class Source:
    """A folder of an earlier trainer, or one file of it with what CheckpointCallback put beside and what normalised for it.

    `place` is where it lies, in full, and `left_out` says of what is not taken why, by its path.
    """

    def __init__(self, path: Path, runs_dir: Path) -> None:
        if not path.exists():
            raise UsageError(f"there is nothing at {path}; name the folder of the earlier trainer, or one of its files")
        if not (path.is_dir() or path.is_file()):
            raise UsageError(f"{path} is neither a folder nor a plain file, and is not read")
        self.path = path
        self.place = escaped(str(path.resolve()))
        self.root = path if path.is_dir() else path.parent
        self.left_out: dict[str, str] = {}
        self._runs_dir = runs_dir.resolve()
        names = sorted(self._walk()) if path.is_dir() else self._with_companions()
        self.names = [name for name in names if self._can_be_carried(name)]
        if not self.names:
            raise UsageError(f"there is no file to import in {escaped(str(path))}{self._why()}")

    def look(self) -> list[Found]:
        """What each file is, in the order of their paths."""
        return [_recognised(self.root, name) for name in self.names]

    def _why(self) -> str:
        some = [f"{name}: {why}" for name, why in self.left_out.items()][:3]
        return f" ({'; '.join(some)})" if some else ""

    def _with_companions(self) -> list[str]:
        named, beside = companions(self.path.name), self._names()
        wanted = beside.intersection(named.values())
        if self.path.suffix == ".zip" and named.get("vecnormalize") not in beside:
            wanted |= {name for name in beside if _may_normalise(self.root / name)}
        return sorted([self.path.name, *(name for name in wanted if self._is_plain(name))])

    def _names(self) -> set[str]:
        try:
            return {path.name for path in self.root.iterdir()}
        except OSError as error:
            self._cannot_enter(error)
            return set()

    def _walk(self) -> Iterator[str]:
        for folder, inner, names in os.walk(self.root, onerror=self._cannot_enter):
            place = Path(folder)
            inner[:] = [name for name in inner if self._is_entered(place / name)]
            for name in names:
                relative = (place / name).relative_to(self.root).as_posix()
                if self._is_plain(relative):
                    yield relative

    def _is_plain(self, name: str) -> bool:
        try:
            is_link, is_file = (self.root / name).is_symlink(), (self.root / name).is_file()
        except OSError as error:
            self._cannot_enter(error)
            return False
        if is_link or not is_file:
            self.left_out[escaped(name)] = "a link, not followed" if is_link else "not a plain file"
        return is_file and not is_link

    def _cannot_enter(self, error: OSError) -> None:
        self.left_out[escaped(str(error.filename))] = f"cannot be read: {error.strerror}"

    def _is_entered(self, folder: Path) -> bool:
        relative = escaped(folder.relative_to(self.root).as_posix())
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
            self.left_out[escaped(name)] = "a name not for every system; rename it"
            return False
        if len(Path(name).name.encode("utf-8")) > _NAME_LIMIT:
            self.left_out[name] = f"a name of more than {_NAME_LIMIT} bytes, too long for a copy; rename it"
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
    if path.suffix in _PICKLE_ENDINGS:
        return _pickle(name, size, path)
    if path.name == "evaluations.npz":
        return Found(name, size, "evaluations", "scores of an EvalCallback")
    if is_of_iteration(path.name):
        return Found(name, size, "iteration", f"of a walk-forward iteration{_not_finite(path)}")
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
        rolling, steps = manifest.get("kind") in ("rollout", "end"), whole(manifest.get("step"))
        problem = _segments_problem(file) if rolling else None
    return Found(
        name,
        size,
        "unbroken checkpoint",
        f"{'checkpoint' if rolling else 'model for use'} of unbroken, run {escaped(str(manifest.get('run')))}",
        steps=steps,
        algorithm=_text(manifest, "config", "algo"),
        observation=_text(manifest, "schema", "observation_space"),
        action=_text(manifest, "schema", "action_space"),
        missing=() if rolling else ("training state",),
        problem="it does not say its step" if rolling and steps is None else problem,
    )


def _text(manifest: Mapping[str, Any], section: str, key: str) -> str | None:
    held = manifest.get(section)
    value = held.get(key) if isinstance(held, dict) else None
    return escaped(value) if isinstance(value, str) else None


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
        f"plain Stable-Baselines3 {file.version or '(of an unknown version)'}{_unbelieved(name, file.data.get('num_timesteps'))}",
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
    parts = ", ".join(part.replace("_", " ") for part in file.parts)
    says = f"PyTorch weights ({parts}){_unbelieved(name) if file.steps is None else ''}"
    return Found(name, size, "weights", says, steps=file.steps, algorithm="ppo_torch", missing=missing)


def _unbelieved(name: str, told: Any = None) -> str:
    """What to say of a number of steps that no training can have, in the file or, where it has none, in its name."""
    of_name = told is None and has_steps_in_name(Path(name).name) and steps_in_name(Path(name).name) is None
    return ", whose number of steps is not believed" if of_name or (told is not None and whole(told) is None) else ""


def _not_finite(path: Path) -> str:
    names = [name for name, value in numbers(read_document(path)) if not math.isfinite(value)]
    return f", without what is not finite: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" if names else ""


def _may_normalise(path: Path) -> bool:
    """Whether a file beside a model is one of normalisation, which is looked into only where it is no link."""
    if path.suffix not in _PICKLE_ENDINGS:
        return False
    if _of_name(path.name) == NORMALISATION:
        return True
    try:
        return path.is_file() and not path.is_symlink() and _is_of_vecnormalize(path)
    except OSError:
        return False


def _of_name(name: str) -> str:
    return next((text for key, text in _PICKLES.items() if key in name.lower()), "pickle")


def _is_of_vecnormalize(path: Path) -> bool:
    with path.open("rb") as file:
        return b"VecNormalize" in file.read(_HEAD)


def _pickle(name: str, size: int, path: Path) -> Found:
    what = _of_name(path.name)
    what = NORMALISATION if what == "pickle" and _is_of_vecnormalize(path) else what
    problem = "a pickle: loading it would run whatever code it names, so it is kept and not loaded"
    return Found(name, size, "pickle", what, steps=steps_in_name(Path(name).name), problem=problem)
