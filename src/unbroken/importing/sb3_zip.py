"""A zip of plain Stable-Baselines3: what its `data` says in plain words, and its tensors as bytes. Nothing is unpickled."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbroken.errors import DamagedFile
from unbroken.importing.foreign_json import json_object
from unbroken.importing.found import STEPS_LIMIT
from unbroken.importing.pickled import class_named, is_pickled
from unbroken.importing.sound_zip import reading, require_sound

DATA = "data"
VARIABLES = "pytorch_variables.pth"
_VERSION = "_stable_baselines3_version"
_DATA_LIMIT = 256 * 1024 * 1024
_NUMBER = re.compile(r"[0-9]{1,15}")


class NotSB3(DamagedFile):
    """A sound zip that Stable-Baselines3 did not write."""


@dataclass(frozen=True)
class SB3Zip:
    """A file that was read once from end to end; `data` is its description with the pickles left as text.

    `tensor_bytes` is the size of its state dicts, which bounds the networks that it can be of.
    """

    path: Path
    data: dict[str, Any]
    members: tuple[str, ...]
    version: str | None
    tensor_bytes: int

    @property
    def steps(self) -> int | None:
        """Environment steps that the model has been trained for."""
        return whole(self.data.get("num_timesteps"))

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the state dicts in it, such as `policy` and `policy.optimizer`."""
        return tuple(m.removesuffix(".pth") for m in self.members if m.endswith(".pth") and m != VARIABLES)

    def read(self, member: str) -> bytes:
        """The bytes of a member. Raises DamagedFile."""
        with reading(self.path) as archive:
            return archive.read(member)


def read_sb3_zip(path: Path) -> SB3Zip:
    """Read a file and check every member against its sum. Raises DamagedFile, and NotSB3 for another sound zip."""
    with reading(path) as archive:
        names = tuple(archive.namelist())
        # first: a folder may hold large zips of data, which need not be read for this
        _require_sb3(path, names)
        require_sound(path, archive)
        data = _description(path, archive)
        version = archive.read(_VERSION).decode("utf-8", "replace").strip() if _VERSION in names else None
        tensor_bytes = sum(info.file_size for info in archive.infolist() if info.filename.endswith(".pth"))
    return SB3Zip(path, data, names, version, tensor_bytes)


def algorithm_of(file: SB3Zip) -> str | None:
    """The configured name of the algorithm that wrote a file, None if it is none that we know."""
    data = file.data
    for name, keys in _MARKS:
        if all(key in data for key in keys):
            return _of_family(name, data)
    return None


def policy_of(file: SB3Zip) -> str | None:
    """`module:Class` of the policy, None where the pickle holds more than a name."""
    return class_named(file.data.get("policy_class"))


@dataclass(frozen=True)
class Space:
    """A space as far as it can be read: the kind is Gymnasium's class, `shape` or `n` where it has one."""

    kind: str
    shape: tuple[int, ...] | None = None
    n: int | None = None

    def __str__(self) -> str:
        if self.n is not None:
            return f"{self.kind}({self.n})"
        return self.kind if self.shape is None else f"{self.kind}{list(self.shape)}"


def space_of(entry: Any) -> Space | None:
    """A space in the description of a file, None where nothing can be read."""
    if not is_pickled(entry):
        return None
    match = re.fullmatch(r"<class '(?:gym|gymnasium)\.spaces\.[\w.]*?(\w+)'>", str(entry.get(":type:")))
    if match is None:
        return None
    kind, shape = match[1], entry.get("_shape")
    if kind == "Discrete":
        n = str(entry.get("n"))
        return Space(kind, n=int(n) if _NUMBER.fullmatch(n) else None)
    is_shape = kind == "Box" and isinstance(shape, list) and all(isinstance(size, int) for size in shape)
    return Space(kind, tuple(shape) if is_shape else None)


def whole(value: Any) -> int | None:
    """A count that can be one, None of anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < STEPS_LIMIT else None


# the first whose keys are all there
_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("tqc", ("top_quantiles_to_drop_per_net",)),
    ("qrdqn", ("n_quantiles", "exploration_fraction")),
    ("trpo", ("cg_max_steps", "n_critic_updates")),
    ("dqn", ("exploration_fraction", "target_update_interval")),
    ("td3", ("policy_delay", "target_policy_noise")),
    ("crossq", ("policy_delay", "target_entropy")),
    ("sac", ("ent_coef", "target_entropy", "target_update_interval")),
    ("ppo", ("n_epochs", "clip_range", "gae_lambda")),
    ("a2c", ("gae_lambda", "normalize_advantage", "n_steps")),
)


def _of_family(name: str, data: dict[str, Any]) -> str:
    if name == "td3" and (data.get("policy_delay"), data.get("target_policy_noise")) == (1, 0.1):
        options = data.get("policy_kwargs")
        return "ddpg" if isinstance(options, dict) and options.get("n_critics") == 1 else name
    if name == "ppo":
        named = f"{class_named(data.get('policy_class'))} {class_named(data.get('rollout_buffer_class'))}"
        return next((f"{kind}_ppo" for kind in ("recurrent", "maskable") if f".{kind}." in named), name)
    return name


def _description(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    if archive.getinfo(DATA).file_size > _DATA_LIMIT:
        raise DamagedFile(f"{path.name}: its description is larger than {_DATA_LIMIT} bytes")
    return json_object(archive.read(DATA), f"{path.name} is damaged: its description")


def _require_sb3(path: Path, names: tuple[str, ...]) -> None:
    if "parameter_list" in names:
        raise NotSB3(f"{path.name} is a zip of Stable-Baselines 2 (TensorFlow), whose weights fit nothing here")
    if DATA not in names or not any(name.endswith(".pth") for name in names):
        raise NotSB3(f"{path.name} is a zip, but not of Stable-Baselines3")
