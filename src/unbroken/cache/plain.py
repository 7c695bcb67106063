"""Values as plain data that is equal exactly where the values are: what fingerprints are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """None, bool, int, float, str, lists and dicts with text keys, of nested dataclasses, mappings, sequences, arrays and paths.

    Every field of a dataclass is taken; the order of mappings and sequences is kept, as results may depend on it. Infinities and
    NaN become text. Raises TypeError for anything else: what has no value to compare must be described by its owner.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float | np.number):
        return _number(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, PurePath):
        return value.as_posix()
    raise TypeError(
        f"{type(value).__qualname__} {value!r} cannot be part of a fingerprint: describe it by plain values"
    )


def _number(value: Any) -> Any:
    number = value.item() if isinstance(value, np.number) else value
    if isinstance(number, float) and not math.isfinite(number):
        return str(number)
    return number


def _key(key: Any) -> str:
    if not isinstance(key, str | int | float | bool):
        raise TypeError(f"a key of a fingerprint's mapping is text or a number, not {key!r}")
    return str(key)


def _array(value: np.ndarray) -> dict[str, Any]:
    if value.dtype.hasobject:
        raise TypeError("an array of Python objects cannot be part of a fingerprint: describe it by plain values")
    content = hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=16).hexdigest()
    return {"dtype": value.dtype.str, "shape": list(value.shape), "blake2b": content}
