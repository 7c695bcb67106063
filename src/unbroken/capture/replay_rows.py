"""Which rows of a replay buffer are new since they were last written, and the rows as bytes.

Rows are named by their *count*: how many the buffer had taken before. Count `n` lies in row `n % buffer_size`, and a buffer
holds the last `held` counts. The buffers of Stable-Baselines3 change in `add` only, once per step of the environments, so
that the count follows from `num_timesteps`; where that does not agree with the buffer's position, and at a class of the
user's, nothing is taken for granted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from unbroken.capture import frames
from unbroken.capture.codec import decode, encode, is_plain
from unbroken.capture.objects import LIBRARIES
from unbroken.errors import DamagedFile

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

ADDED = frozenset({"observations", "next_observations", "actions", "rewards", "dones", "timeouts"})
"""Arrays of the libraries' buffers that only `add` writes for good, at the position: not HER's `ep_start` and `ep_length`."""

_BORROWED = ("dones", "timeouts")
"""Of these, the ones that the libraries also write for a moment into the newest row: to sample over n steps, to begin anew."""

_DOCUMENT, _BLOCK, _IMAGES = "rows.json", "rows.bin", "rows.zst"


@dataclass
class Rows:
    """The rows from count `first` to before `end` of a buffer's `live` arrays.

    The buffer holds the rows from `oldest` on. `epoch` tells which counting they belong to. The rows are copied when `arrays` is
    first asked for, by any thread: until the buffer has gone all the way round, `add` does not write where they are. What sampling
    writes to is copied at once.
    """

    first: int
    end: int
    oldest: int
    epoch: int
    live: Mapping[str, np.ndarray]
    buffer_size: int
    _borrowed: dict[str, np.ndarray] = field(init=False)
    _copies: dict[str, np.ndarray] | None = field(init=False, default=None)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._borrowed = {name: self._copied(name) for name in _BORROWED if name in self.live}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of the rows by name, in this order along their first axis."""
        with self._lock:
            if self._copies is None:
                taken = self._borrowed
                self._copies = {name: taken[name] if name in taken else self._copied(name) for name in self.live}
            return self._copies

    def _copied(self, name: str) -> np.ndarray:
        array, size = self.live[name], self.buffer_size
        if self.first == self.end:
            return array[:0].copy()
        start, stop = self.first % size, (self.end - 1) % size + 1
        return array[start:stop].copy() if start < stop else np.concatenate([array[start:], array[:stop]])

    @property
    def are_copied(self) -> bool:
        """Whether nothing that happens to the buffer changes them any more."""
        return self._copies is not None

    def endure(self, count: int) -> bool:
        """Whether they are still in their places once the buffer has taken `count` rows in all.

        With `optimize_memory_usage` a row is written into its own place and the next.
        """
        return count < self.first + self.buffer_size


def grows_by_adding(buffer: Any) -> bool:
    """Whether it is known that rows change in `add` only: true for the libraries' own classes."""
    return buffer is not None and f"{type(buffer).__module__}.".startswith(LIBRARIES)


def row_arrays(buffer: Any) -> dict[str, np.ndarray]:
    """Arrays with one entry per row, by attribute name, `name/key` for those in a dictionary."""
    found = {}
    for name, value in vars(buffer).items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for key, part in parts:
            if isinstance(part, np.ndarray) and part.shape[:1] == (buffer.buffer_size,) and is_plain(part.dtype):
                found[f"{name}/{key}" if key else name] = part
    return found


class RowCounter:
    """Counts the rows that a model's replay buffer takes, and knows up to which count they are safe on disk.

    `take`, `begin` and `about_to_add` are called by the training thread, `committed` by the writing one, `forget` by both.
    """

    def __init__(self) -> None:
        self.count = 0
        self.safe = 0
        self.epoch = 0
        self._steps = 0
        self._buffer: Any = None
        self._pending: Rows | None = None

    def begin(self, model: BaseAlgorithm, count: int) -> None:
        """The buffer was restored, and all its rows, `count` being the next, are in segments."""
        self.count = self.safe = count
        self._steps = model.num_timesteps
        self._buffer = model.replay_buffer  # type: ignore[attr-defined]

    def is_behind(self, model: BaseAlgorithm) -> bool:
        """Whether the buffer's position is not where the count says: something was added that no step accounts for."""
        buffer: Any = getattr(model, "replay_buffer", None)
        if buffer is None or self._buffer is not buffer:
            return buffer is not None
        return bool(buffer.pos != self.count % buffer.buffer_size or buffer.full != (self.count >= buffer.buffer_size))

    def forget(self) -> None:
        """Take nothing for written any more: rows may have changed in another way than by `add`."""
        self.epoch += 1
        self._steps = -1

    def began(self, num_timesteps: int) -> None:
        """A `learn()` begins at this step: where it counts anew, SB3 may also alter the last row."""
        if num_timesteps < self._steps:
            self.forget()

    def take(self, model: BaseAlgorithm) -> Rows:
        """The rows that are not safe yet, to be copied before they change."""
        buffer: Any = model.replay_buffer  # type: ignore[attr-defined]
        if self._buffer is not buffer:
            # such as another one, loaded by the user
            self.forget()
            self._buffer = buffer
        self._pending = None
        held = buffer.buffer_size if buffer.full else buffer.pos
        added = (model.num_timesteps - self._steps) // model.n_envs if self._steps >= 0 else -1
        count = self.count + added
        if added < 0 or count % buffer.buffer_size != buffer.pos or min(count, buffer.buffer_size) != held:
            self.epoch += 1
            # beyond all that was ever counted, so that no older segment is taken for these rows
            least = self.count + held
            count = least + (buffer.pos - least) % buffer.buffer_size
            self.safe = count - held
        self.count, self._steps = count, model.num_timesteps
        oldest = count - held
        first = max(self.safe, oldest)
        live = {n: array for n, array in row_arrays(buffer).items() if n.partition("/")[0] in ADDED}
        self._pending = Rows(first, count, oldest, self.epoch, live, buffer.buffer_size)
        return self._pending

    def about_to_add(self, model: BaseAlgorithm) -> None:
        """Called after each step of the environments, before its rows are added: what they would overwrite is copied first.

        So it is where something else than these steps has moved the buffer's position.
        """
        rows = self._pending
        if rows is None:
            return
        if rows.are_copied:
            self._pending = None
            return
        buffer: Any = self._buffer
        count = self.count + (model.num_timesteps - self._steps) // model.n_envs
        if not rows.endure(count) or buffer.pos != (count - 1) % buffer.buffer_size:
            _ = rows.arrays
            self._pending = None

    def committed(self, rows: Rows) -> None:
        """These rows are on disk, named by a checkpoint."""
        if self._pending is rows:
            self._pending = None
        if rows.epoch == self.epoch:
            self.safe = rows.end


def put_rows(buffer: Any, first: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Write rows into their places. Raises KeyError or ValueError where the buffer has others."""
    present = row_arrays(buffer)
    for name, rows in arrays.items():
        target = present[name]
        if target.shape[1:] != rows.shape[1:] or target.dtype != rows.dtype or len(rows) > len(target):
            raise ValueError(
                f"{name!r} has rows {target.shape[1:]} of {target.dtype}, and not {rows.shape[1:]} of {rows.dtype}"
            )
        start = first % len(target)
        until_end = len(target) - start
        target[start : start + len(rows)] = rows[:until_end]
        target[: max(0, len(rows) - until_end)] = rows[until_end:]


def pack_rows(arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, Iterator[bytes | memoryview]]]:
    """Members of a segment: a document, raw arrays, and images compressed with zstd. Raw floats hardly compress."""
    described, tables = frames.split(arrays)
    plain = {name: part for name, part in described.items() if not isinstance(part, dict)}
    images = {name: part for name, part in described.items() if isinstance(part, dict)}
    encoded, packed = encode(plain), encode({"images": images, "tables": tables})
    yield _DOCUMENT, iter([encoded.document])
    yield _BLOCK, encoded.block()
    if images:
        yield "images.json", iter([packed.document])
        yield _IMAGES, _compressed(packed.block())


def unpack_rows(names: list[str], read: Callable[[str], bytes]) -> dict[str, np.ndarray]:
    """The arrays of a segment from its members. Raises DamagedFile."""
    plain: dict[str, np.ndarray] = decode(read(_DOCUMENT), read(_BLOCK))
    if _IMAGES not in names:
        return plain
    try:
        block = zstandard.ZstdDecompressor().decompressobj().decompress(read(_IMAGES))
        held = decode(read("images.json"), block)
        return {**plain, **frames.join(held["images"], held["tables"])}
    except (zstandard.ZstdError, KeyError, IndexError, TypeError) as error:
        raise DamagedFile(f"the images of a segment cannot be read: {error}") from error


def _compressed(pieces: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()
