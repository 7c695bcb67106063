"""Whether an environment does the same twice: clocks that a second process sees shifted, and where its code may look elsewhere.

What depends on the time of day or on a generator that nobody seeded cannot be resumed exactly, however it is captured.
"""

from __future__ import annotations

import datetime
import os
import random
import secrets
import time
import types
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from unbroken.capture.hidden import code_of_users

# not a whole number of seconds, minutes, hours or days
_SHIFT_SECONDS = 98_765.4321
_CLOCKS = ("time", "monotonic", "perf_counter", "process_time")
_SOURCES: tuple[tuple[Any, str, frozenset[str]], ...] = (
    (time, "time", frozenset({*_CLOCKS, *(f"{name}_ns" for name in _CLOCKS)})),
    (datetime, "datetime", frozenset({"now", "utcnow", "today"})),
    (datetime.datetime, "datetime", frozenset({"now", "utcnow", "today"})),
    (os, "os", frozenset({"urandom", "getpid"})),
    (uuid, "uuid", frozenset({"uuid1", "uuid4"})),
    (secrets, "secrets", frozenset({"token_bytes", "randbelow", "choice", "randbits"})),
    (random, "random", frozenset({"Random", "SystemRandom"})),
    (np, "numpy.random", frozenset({"default_rng", "RandomState"})),
)


def shift_clocks() -> None:
    """Let this process's clocks run far ahead, for code that is imported from now on."""
    for name in _CLOCKS:
        setattr(time, name, _ahead(getattr(time, name), _SHIFT_SECONDS))
        setattr(time, f"{name}_ns", _ahead(getattr(time, f"{name}_ns"), int(_SHIFT_SECONDS * 1e9)))


def suspects(owners: Iterable[Any]) -> list[str]:
    """Clocks and sources of chance that the users' code of some objects names: `time.time in World.step`.

    Nothing says that they matter; they are where to look first.
    """
    found = {place: None for owner in owners for function in code_of_users(owner) for place in _named_by(function)}
    return list(found)


def _ahead(clock: Callable[[], Any], shift: Any) -> Callable[[], Any]:
    return lambda: clock() + shift


def _named_by(function: types.FunctionType) -> Iterator[str]:
    names = set(function.__code__.co_names)
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        for source, prefix, attributes in _SOURCES:
            if value is source:
                yield from (f"{prefix}.{found} in {function.__qualname__}" for found in sorted(names & attributes))
            elif value is not None and any(value is getattr(source, found, None) for found in attributes):
                yield f"{prefix}.{name} in {function.__qualname__}"
