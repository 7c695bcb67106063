"""Values as plain data that is equal exactly where the values are: what fingerprints are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

_AS_PYTHON = (np.float64, np.int64)


def plain(value: Any) -> Any:
    """None, bool, int, float, str, lists and dicts with text keys, of nested dataclasses, mappings, sequences, arrays and paths.

    Every field of a dataclass is taken, with the name of its class; the order of mappings and sequences is kept, as results may
    depend on it. What JSON has no word for (infinities, sets, bytes, arrays, numbers of other than 64 bits, keys that are no
    text) becomes a text or a dict under a key that begins with `$`, as no other key does. Raises TypeError for anything else:
    what has no value to compare must be described by its owner.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float | np.number | np.bool_):
        return _number(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"$class": type(value).__qualname__, **fields}
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return {"$set": sorted((plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))}
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, bytes):
        return {"$bytes": hashlib.blake2b(value, digest_size=16).hexdigest()}
    if isinstance(value, PurePath):
        return value.as_posix()
    raise _undescribed(value)


def _undescribed(value: Any) -> TypeError:
    return TypeError(
        f"{type(value).__qualname__} {value!r} cannot be part of a fingerprint: describe it by plain values"
    )


def _number(value: Any) -> Any:
    number = value.item() if isinstance(value, np.generic) else value
    if not isinstance(number, int | float) or isinstance(value, np.timedelta64):
        raise _undescribed(value)
    if isinstance(value, np.number) and value.dtype not in _AS_PYTHON:
        # arithmetic with it rounds, or overflows, otherwise
        return {"$number": [value.dtype.str, value.tobytes().hex()]}
    return number if isinstance(number, int) or math.isfinite(number) else {"$float": str(number)}


def _key(key: Any) -> str:
    if isinstance(key, str):
        return f"${key}" if key.startswith("$") else key
    if not isinstance(key, int | float | bool):
        raise TypeError(f"a key of a fingerprint's mapping is text or a number, not {key!r}")
    return f"${type(key).__name__} {key!r}"


def _array(value: np.ndarray) -> dict[str, Any]:
    if value.dtype.hasobject or isinstance(value, np.ma.MaskedArray):
        raise TypeError("an array of Python objects, or with a mask, cannot be part of a fingerprint")
    dtype = value.dtype.str if value.dtype.names is None else str(value.dtype.descr)
    content = hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=16).hexdigest()
    return {"$array": [dtype, list(value.shape), content]}
