"""Compare two whole training states bit for bit, and name what differs.

Left out by name, and nothing else is: fields that measure the wall clock, which can never agree (logged times, Monitor's episode
times), and the generators that observation spaces carry for `sample()`. Gymnasium seeds those from the operating system, and
training draws from none; an environment that does shows it in what it observes. Action spaces, which training samples, count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# dictionary keys of SB3's logger; attributes of layers that keep episode times; "t" of an episode record {r, l, t}
WALL_CLOCK = frozenset({"time/fps", "time/time_elapsed"})
_TIMED_LAYERS = ("Monitor", "RecordEpisodeStatistics")
_TIMED_ATTRIBUTES = frozenset({"t_start", "t_starts", "elapsed", "episode_times", "episode_start_time", "time_queue"})
_EPISODE_TIME = "t"
_OBSERVATION_SPACES = frozenset({"observation_space", "_observation_space", "single_observation_space"})
_SHOWN = 40


@dataclass(frozen=True)
class Comparison:
    """Digests of two states and the leaves in which they differ, as (name, first, second)."""

    first_digest: str
    second_digest: str
    differences: tuple[tuple[str, str, str], ...]
    leaves: int

    @property
    def identical(self) -> bool:
        """Whether every compared bit is the same."""
        return not self.differences

    def plain(self) -> dict[str, Any]:
        """JSON-ready form."""
        rows = [{"name": name, "first": first, "second": second} for name, first, second in self.differences]
        return {
            "identical": self.identical,
            "first_digest": self.first_digest,
            "second_digest": self.second_digest,
            "compared": self.leaves,
            "left_out": sorted(WALL_CLOCK | _TIMED_ATTRIBUTES | {_EPISODE_TIME} | _OBSERVATION_SPACES),
            "differences": rows,
        }

    def text(self) -> str:
        """Lines for people."""
        head = f"identical: {'yes' if self.identical else 'no'} ({self.leaves:,} values and arrays compared)"
        lines = [head, f"  first  {self.first_digest}", f"  second {self.second_digest}"]
        lines += [f"  {name}: {first} | {second}" for name, first, second in self.differences[:_SHOWN]]
        if len(self.differences) > _SHOWN:
            lines.append(f"  and {len(self.differences) - _SHOWN:,} more")
        return "\n".join(lines)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All values and arrays of a nest of descriptions and containers, by path, without wall-clock fields."""
    if isinstance(value, Mapping) and isinstance(value.get("t"), str):
        yield from _description_leaves(value, name)
    elif isinstance(value, Mapping):
        timed = str(value.get("class", "")).endswith(_TIMED_LAYERS)
        for key, item in value.items():
            if key == "attributes" and timed:
                item = {n: part for n, part in item.items() if n not in _TIMED_ATTRIBUTES}
            if not (timed and key in _TIMED_ATTRIBUTES) and not (key in _OBSERVATION_SPACES and _is_space(item)):
                yield from leaves(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for k, item in enumerate(value):
            yield from leaves(item, f"{name}[{k}]")
    else:
        yield name, value


def _is_space(item: Any) -> bool:
    """Whether a description is a space's, of which only the generators are captured."""
    return isinstance(item, Mapping) and item.get("t") == "space"


def _description_leaves(value: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    yield f"{name}:type", value["t"]
    if value["t"] == "dict":
        yield from _pair_leaves(value["v"], name)
        return
    for word, item in value.items():
        # "i" numbers the shared references of one description and says nothing about the state
        if word not in ("t", "i"):
            yield from leaves(item, name if word == "v" else f"{name}:{word}")


def _pair_leaves(pairs: Any, name: str) -> Iterator[tuple[str, Any]]:
    keys = {key for key, _ in pairs if isinstance(key, str)}
    left_out = WALL_CLOCK | ({_EPISODE_TIME} if {"r", "l", "t"} <= keys else set())
    for k, (key, item) in enumerate(pairs):
        if isinstance(key, str):
            if key not in left_out:
                yield from leaves(item, f"{name}[{key!r}]")
        else:
            yield from leaves(key, f"{name}:key{k}")
            yield from leaves(item, f"{name}[{k}]")


def leaf_bytes(value: Any) -> bytes:
    """The bits of one leaf, with its type and shape."""
    if hasattr(value, "detach"):
        import torch

        cpu = value.detach().cpu().contiguous()
        raw: bytes = cpu.reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{cpu.dtype}{tuple(cpu.shape)}".encode() + raw
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    if isinstance(value, float):
        return b"float" + np.float64(value).tobytes()
    return f"{type(value).__name__}:{value!r}".encode()


def compare_states(first: Any, second: Any) -> Comparison:
    """Compare two nests of descriptions, tensors and plain values."""
    one, two = dict(leaves(first)), dict(leaves(second))
    differences = []
    for name in dict.fromkeys([*one, *two]):
        if name not in one or name not in two:
            differences.append((name, _short(one.get(name, "absent")), _short(two.get(name, "absent"))))
        elif leaf_bytes(one[name]) != leaf_bytes(two[name]):
            differences.append((name, *_difference(one[name], two[name])))
    return Comparison(digest(one), digest(two), tuple(differences), len(one))


def digest(flat: Mapping[str, Any]) -> str:
    """One hash over all leaves by name."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(flat):
        total.update(name.encode())
        total.update(leaf_bytes(flat[name]))
    return total.hexdigest()


def _difference(first: Any, second: Any) -> tuple[str, str]:
    one, two = (np.asarray(v.detach().cpu().float() if hasattr(v, "detach") else v) for v in (first, second))
    if one.shape == two.shape and one.size > 1:
        unequal = np.flatnonzero(np.atleast_1d(one != two).reshape(-1))
        place = int(unequal[0]) if unequal.size else 0
        note = f" at {place}, {unequal.size:,} of {one.size:,} differ"
        return f"{one.reshape(-1)[place]!r}", f"{two.reshape(-1)[place]!r}{note}"
    return _short(first), _short(second)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
