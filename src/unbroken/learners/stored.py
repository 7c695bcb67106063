"""The whole state of a training as members of a checkpoint, whatever learner it belongs to.

State dicts are `.pth` members, or of a `.pt` what torch itself wrote there; everything else is a description under `exact/`.
Read with `weights_only=True` and as plain data: no code of a file's runs.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from unbroken.capture.codec import decode, encode
from unbroken.capture.state_dicts import tensor_bytes
from unbroken.errors import DamagedFile
from unbroken.learners.replay_segments import joined_rows, stored_rows
from unbroken.store.backend import FileBackend
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter
from unbroken.store.segments import PARTIAL, Segment, segments_of

STATE = "exact/state.json"
ARRAYS = "exact/arrays.bin"
_SMALL = 256_000
_PICKLE = "data.pkl"
_FOLDER = "archive/"
_NOT_TENSORS = frozenset({"data", "_stable_baselines3_version", "system_info.txt", STATE, ARRAYS})


@dataclass(frozen=True)
class Stored:
    """The state read from a checkpoint; rows of a replay buffer that lie in segments are read when they are asked for."""

    state: dict[str, Any]
    tensors: dict[str, Any]
    backend: FileBackend
    path: str
    segments: tuple[Segment, ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)

    @property
    def cut(self) -> Any:
        """Where in the training it was captured: "rollout" or "end"."""
        return self.state["cut"]

    def rows(self) -> Iterable[tuple[int, dict[str, np.ndarray]]]:
        """The rows in segments, oldest first, one segment in memory at a time. Raises DamagedFile."""
        return stored_rows(self.backend, self.path)

    def whole_state(self) -> dict[str, Any]:
        """The state with all rows of the replay buffer in it, however they are stored: for comparison. Needs memory for them."""
        buffer = self.state.get("replay_buffer")
        if not self.segments or buffer is None:
            return self.state
        held = {key: value for key, value in buffer.items() if key not in ("count", "oldest")}
        rows = {**buffer["rows"], **joined_rows(self.rows(), buffer["oldest"])}
        return {**self.state, "replay_buffer": {**held, "rows": rows}}


def is_small(size: int) -> bool:
    """Whether deflating so many bytes costs next to nothing: of small networks' checkpoints a fifth is what torch pads."""
    return size <= _SMALL


def write_state(writer: CheckpointWriter, state: Mapping[str, Any]) -> None:
    """Write a description as the members under `exact/`."""
    encoded = encode(dict(state))
    writer.write_member(STATE, encoded.document, deflate=True)
    with writer.member(ARRAYS, deflate=is_small(sum(array.nbytes for array in encoded.arrays))) as member:
        for piece in encoded.block():
            member.write(piece)


def read_stored(file: CheckpointFile) -> Stored:
    """The whole state of an open checkpoint. Raises DamagedFile if it is an export without state."""
    names = file.names()
    if STATE not in names:
        raise DamagedFile(
            f"{file.path} is a model for use without training state; name a rolling checkpoint, one in checkpoints/"
        )
    state = decode(file.read(STATE), file.read(ARRAYS))
    if PARTIAL in file.manifest and state.get("replay_buffer"):
        # nothing counts its rows any more: the next checkpoint writes all that there are
        state["replay_buffer"] = {**state["replay_buffer"], "count": None, "partial": state["replay_buffer"]["count"]}
    place = (file.backend, file.path, tuple(segments_of(file.manifest)))
    if _PICKLE in names:
        return Stored(state, read_pytorch(file), *place)
    tensors = {
        n.removesuffix(".pth"): read_tensors(file.read(n))
        for n in names
        if n not in _NOT_TENSORS and n.endswith(".pth")
    }
    variables = tensors.pop("pytorch_variables", None) or {}
    return Stored(state, tensors, *place, variables)


def read_tensors(raw: bytes) -> Any:
    """What `torch.save` wrote: tensors and plain values only, never code."""
    return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)


def write_pytorch(writer: CheckpointWriter, content: Mapping[str, Any]) -> None:
    """Write what `torch.save` makes of `content` as members of a `.pt`, so that `torch.load` reads the whole file."""
    for name, raw in _members(tensor_bytes(dict(content))):
        writer.write_member(name, raw)


def read_pytorch(file: CheckpointFile) -> dict[str, Any]:
    """What `torch.save` had written of an open `.pt`; its members are checked against the commit record."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in file.names():
            if not name.startswith("exact/"):
                archive.writestr(_FOLDER + name, file.read(name))
    content: dict[str, Any] = read_tensors(buffer.getvalue())
    return content


def _members(raw: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for name in archive.namelist():
            yield name.partition("/")[2], archive.read(name)
