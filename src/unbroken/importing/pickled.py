"""What can be told of a pickle without loading it: its instructions are listed, none is carried out.

Only the plain values among their arguments are looked at. That an entry is of a known form is decided by the whole list of
them: a pickle that does anything else is of no known form.
"""

from __future__ import annotations

import base64
import pickletools
import re
from typing import Any

SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf")
"""Hyper-parameters that may be functions of the progress."""
_LIMIT = 1_000_000
_VALUES = frozenset(
    {
        "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE",
        "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT",
    }
)  # fmt: skip


def is_pickled(value: Any) -> bool:
    """Whether an entry of a zip's `data` is one that Stable-Baselines3 would unpickle."""
    return isinstance(value, dict) and ":serialized:" in value


def class_named(entry: Any) -> str | None:
    """`module:Name` of a pickle that only refers to a class, None of any other."""
    words = _words(entry)
    if len(words) != 2 or not all(isinstance(word, str) and re.fullmatch(r"[\w.]+", word) for word in words):
        return None
    return f"{words[0]}:{words[1]}"


def train_frequency(entry: Any) -> list[Any] | None:
    """`[n, "step" or "episode"]` of a pickled `TrainFreq`, None of anything else."""
    match _without_modules(entry):
        case ["TrainFreq", int(n), "TrainFrequencyUnit", "step" | "episode" as unit] if n > 0:
            return [n, unit]
    return None


def schedule(entry: Any) -> float | str | None:
    """The constant, or `lin_x`, of a pickled schedule of Stable-Baselines3's own, None of any other."""
    words = _without_modules(entry)
    if words[:2] == ["FloatSchedule", "value_schedule"]:
        words = words[2:]
    match words:
        case ["ConstantSchedule", "val", int() | float() as value]:
            return float(value)
        case ["LinearSchedule", "start", int() | float() as start, "end", 0, "end_fraction", 1] if start > 0:
            return f"lin_{float(start)!r}"
    return None


def _words(entry: Any) -> list[Any]:
    """The texts and numbers in the instructions of a pickled entry, in their order; none where they cannot be listed."""
    text = entry.get(":serialized:") if isinstance(entry, dict) else None
    if not isinstance(text, str) or len(text) > _LIMIT:
        return []
    try:
        steps = [(code.name, value) for code, value, _ in pickletools.genops(base64.b64decode(text))]
    except Exception:  # noqa: BLE001 - a listing of altered bytes may stumble in any way, and nothing else depends on it
        return []
    return [word for name, value in steps for word in _plain(name, value)]


def _plain(name: str, value: Any) -> list[Any]:
    # older protocols write module and name in one instruction
    if name == "GLOBAL":
        return str(value).split(" ")
    return [value] if name in _VALUES else []


def _without_modules(entry: Any) -> list[Any]:
    """As `_words`, without the modules of Stable-Baselines3: whether one is repeated depends on the protocol."""
    return [w for w in _words(entry) if not (isinstance(w, str) and w.startswith("stable_baselines3."))]
