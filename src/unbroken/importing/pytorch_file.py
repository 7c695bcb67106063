"""A `.pt` of a hand-written PyTorch trainer: which parts of a training it holds. Only tensors and plain values are read."""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbroken.errors import DamagedFile
from unbroken.importing.found import steps_in_name
from unbroken.importing.sb3_zip import whole
from unbroken.importing.sound_zip import reading, require_sound

_PARTS = ("actor", "critic", "actor_optimizer", "critic_optimizer", "episode_rewards", "episode_lengths")


@dataclass(frozen=True)
class PytorchFile:
    """What a file holds under the names that earlier trainers are known to use; `shapes` are the actor's, in its order."""

    path: Path
    parts: tuple[str, ...]
    steps: int | None
    shapes: tuple[tuple[int, ...], ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """The parts of a training that it lacks."""
        return tuple(name.replace("_", " ") for name in _PARTS if name not in self.parts)

    @property
    def net_arch(self) -> list[int] | None:
        """Sizes of the actor's hidden layers, None where it does not consist of linear ones."""
        weights = [shape for shape in self.shapes if len(shape) == 2]
        others = [shape for shape in self.shapes if len(shape) > 2]
        fits = all(before[0] == after[1] for before, after in itertools.pairwise(weights))
        return [shape[0] for shape in weights[:-1]] if weights and fits and not others else None


def read_pytorch_file(path: Path) -> PytorchFile:
    """Look into a file. Imports torch. Raises DamagedFile where it would take code to open it, too."""
    # the learner's own table of names decides: what is recognised here is what it will load
    from unbroken.learners.ppo_files import FIELD_NAMES, below

    content = _content(path)
    held = {name: next((content[key] for key in keys if key in content), None) for name, keys in FIELD_NAMES.items()}
    for name in ("actor", "critic"):
        held[name] = held[name] or below(content, f"{name}.")
    parts = tuple(name for name in _PARTS if held[name] is not None and not _is_empty(held[name]))
    actor = held["actor"] if isinstance(held["actor"], Mapping) else {}
    tensors = [value for value in actor.values() if hasattr(value, "shape")]
    size = path.stat().st_size
    if any(math.prod(tensor.shape) > size for tensor in tensors):
        raise DamagedFile(f"{path.name} claims tensors larger than itself; not used")
    shapes = tuple(tuple(tensor.shape) for tensor in tensors)
    return PytorchFile(path, parts, _count(held["timestep"]) or steps_in_name(path.name), shapes)


def _is_zip(path: Path) -> bool:
    """Whether it is to be read as a zip, a damaged one included."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def _content(path: Path) -> Mapping[str, Any]:
    import torch

    if _is_zip(path):
        with reading(path) as archive:
            require_sound(path, archive)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise DamagedFile(
            f"{path.name} does not open as tensors and plain values alone: it is damaged, or names code, which is not run"
        ) from error
    if not isinstance(content, Mapping):
        raise DamagedFile(f"{path.name} holds a {type(content).__name__}, not a dict of state dicts")
    return content


def _count(value: Any) -> int | None:
    return whole(value.item() if hasattr(value, "item") and getattr(value, "numel", lambda: 0)() == 1 else value)


def _is_empty(value: Any) -> bool:
    return isinstance(value, Mapping) and not value
