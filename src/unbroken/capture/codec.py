"""Descriptions as bytes: one JSON document and one block of raw array bytes.

A description is a tree of None, bool, int, finite float, str, list, dict with str keys, and C-contiguous numpy arrays
without object dtype. The document holds everything but the arrays' bytes, which follow one another in the block.
Reading builds numbers, strings, lists, dicts and arrays and nothing else: no code of the file's choosing runs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from unbroken.errors import DamagedFile

FORMAT_VERSION = 1
_ARRAY = "$array"
_ALIGNMENT = 64
_DTYPE_KINDS = frozenset("?biufcSUmM")


@dataclass(frozen=True, slots=True)
class Later:
    """A part of a description that is made from copies when it is encoded: in the writing thread, while training goes on.

    `make(*given)` gives the part; nothing that it is given may change. The function belongs to a module, so that it travels between
    processes.
    """

    make: Callable[..., Any]
    given: tuple[Any, ...]

    def made(self) -> Any:
        """The part."""
        return self.make(*self.given)


def settled(description: Any) -> Any:
    """The description with all parts made."""
    if type(description) is Later:
        return settled(description.made())
    if isinstance(description, dict):
        return {key: settled(item) for key, item in description.items()}
    return [settled(item) for item in description] if isinstance(description, list) else description


@dataclass(frozen=True)
class Encoded:
    """A description ready to be written: the JSON `document` and the `arrays` of the block, in order."""

    document: bytes
    arrays: tuple[np.ndarray, ...]

    def block(self) -> Iterator[bytes | memoryview]:
        """Pieces of the array block: each array starts at a multiple of 64 bytes."""
        for array in self.arrays:
            yield array.reshape(-1).view(np.uint8).data if array.size else b""
            yield bytes(_padding(array.nbytes))


def digest(description: Any) -> str:
    """Hash of a description: the same for the same values, bit for bit."""
    encoded = encode(description)
    found = hashlib.blake2b(encoded.document, digest_size=16)
    for piece in encoded.block():
        found.update(piece)
    return found.hexdigest()


def encode(description: Any) -> Encoded:
    """Split a description into document and arrays. Arrays are referred to, not copied: describe copies them.

    Raises TypeError for a value that is not part of a description, such as an array that `decode` would refuse.
    """
    arrays: list[np.ndarray] = []
    offset = 0

    def plain(value: Any) -> Any:
        nonlocal offset
        if isinstance(value, dict):
            if _ARRAY in value or not all(isinstance(key, str) for key in value):
                raise TypeError(f"a description's keys are strings other than {_ARRAY!r}, not {list(value)[:5]}")
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, np.ndarray):
            _require_plain(value)
            # ascontiguousarray would turn a 0-d array into a 1-d one
            contiguous = value if value.flags.c_contiguous else value.copy(order="C")
            entry = [offset, str(contiguous.dtype.str), list(contiguous.shape)]
            arrays.append(contiguous)
            offset += contiguous.nbytes + _padding(contiguous.nbytes)
            return {_ARRAY: entry}
        if type(value) is Later:
            return plain(value.made())
        return value

    tree = plain(description)
    document = json.dumps({"version": FORMAT_VERSION, "tree": tree}, allow_nan=False, separators=(",", ":"))
    return Encoded(document.encode(), tuple(arrays))


def decode(document: bytes, block: bytes | memoryview) -> Any:
    """The description that `encode` was given. Arrays are read-only views of `block`.

    Raises DamagedFile when document and block do not fit together.
    """
    view = memoryview(block)
    try:
        loaded = json.loads(document)
        if loaded["version"] != FORMAT_VERSION:
            raise DamagedFile(f"state format {loaded['version']!r} is not known to this version; update unbroken")
        return _with_arrays(loaded["tree"], view)
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError, SyntaxError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(f"the stored state cannot be read: {error}") from error


def _require_plain(array: np.ndarray) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("an array with a mask is not part of a description: give its data and its mask as two arrays")
    if not is_plain(array.dtype):
        way_out = "" if array.dtype.names is None else ": give each of its fields as an array"
        raise TypeError(f"an array of type {array.dtype} is not part of a description{way_out}")


def is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of that type can be part of a description; structured ones and objects cannot."""
    return dtype.kind in _DTYPE_KINDS and dtype.itemsize > 0


def _with_arrays(value: Any, view: memoryview) -> Any:
    if isinstance(value, list):
        return [_with_arrays(item, view) for item in value]
    if isinstance(value, dict):
        if _ARRAY in value:
            return _array(value[_ARRAY], view)
        return {key: _with_arrays(item, view) for key, item in value.items()}
    return value


def _array(entry: Any, view: memoryview) -> np.ndarray:
    offset, dtype_name, shape = entry
    if not isinstance(dtype_name, str):
        raise DamagedFile(f"{dtype_name!r} is not the name of an array's type")
    dtype = np.dtype(dtype_name)
    if not is_plain(dtype) or any(not isinstance(size, int) or size < 0 for size in shape):
        raise DamagedFile(f"array of type {dtype_name} and shape {shape} is not part of the format")
    count = math.prod(shape)
    if offset < 0 or offset + count * dtype.itemsize > len(view):
        raise DamagedFile("an array reaches beyond its block")
    return np.frombuffer(view, dtype=dtype, count=count, offset=offset).reshape(shape)


def _padding(size: int) -> int:
    return -size % _ALIGNMENT
