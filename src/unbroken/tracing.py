"""A trace of a training, step by step and cut by cut, for `unbroken prove`. Off unless UNBROKEN_TRACE names a folder.

Stable-Baselines3 trainings and loops of one's own write the same: `begin` for each loop, `step` after each step, `logged`, and
`cut` with the whole state where it could be saved. Every process appends to a file of its own, and a line is with the system
when the call returns: SIGKILL tears at most the last one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = "UNBROKEN_TRACE"
LIMIT = "UNBROKEN_TRACE_STEPS"
SUFFIX = ".trace.jsonl"
_CUTS = 200
_SHOWN_ITEMS = 8
_MOST_SHOWN = 160
_MANY = 32
_INDEX = re.compile(r"\[[^\]]*\]")
# a part of the time that capturing for the trace may take before cuts are traced more rarely
_CAPTURE_SHARE = 0.3

Digest = list[str]
"""Hash of a value's bits, and the beginning of the value as text for people."""


@dataclass(frozen=True)
class Owners:
    """Live objects whose code may keep state where no capture looks, by their part in the training."""

    environments: tuple[Any, ...] = ()
    callbacks: tuple[Any, ...] = ()
    schedules: tuple[Any, ...] = field(default=())

    def by_role(self) -> dict[str, tuple[Any, ...]]:
        """The objects under the names that a report gives their parts."""
        return {"environment": self.environments, "callback": self.callbacks, "schedule": self.schedules}


@functools.cache
def current() -> Trace | None:
    """The trace of this process, None when nobody asked for one."""
    folder = os.environ.get(FOLDER)
    return Trace(Path(folder), os.environ.get(LIMIT)) if folder else None


class Trace:
    """Appends events to one file. Used by the training thread. A folder that cannot be written raises OSError."""

    def __init__(self, folder: Path, limit: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{time.time_ns():020d}-{os.getpid()}{SUFFIX}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.limit = int(limit) if limit else None
        self._call = ""
        self._every = 1
        self._previous: int | None = None
        self._capturing = 0.0
        self._started = time.monotonic()
        self._clocks_said = False

    def begin(self, call: str, goal: int) -> None:
        """A loop begins or goes on, which is to end at step `goal`; `call` is its name in every process of the script."""
        self._call, self._previous = call, None
        self._every = max(1, min(goal, self.limit or goal) // _CUTS)
        self._write("begin", goal=goal)

    def step(self, step: int, **values: Any) -> None:
        """One step of the environment: what was seen, done and got, and the counter after it."""
        self._write("step", step=step, values={name: digest(value) for name, value in values.items()})

    def logged(self, step: int, values: Mapping[str, Any]) -> None:
        """A row of the training's log, without wall-clock values."""
        self._write("log", step=step, values={name: digest(value) for name, value in values.items()})

    def is_due(self, step: int) -> bool:
        """Whether the state at a cut belongs into the trace: the first of a process, and about 200 in a training.

        Which cuts these are follows from the steps, so that two processes trace the same ones.
        """
        previous, self._previous = self._previous, step
        return previous is None or step // self._every > previous // self._every

    def cut(self, step: int, kind: str, state: Any, missing: Iterable[str] = (), owners: Owners | None = None) -> None:
        """The whole state at a cut, as descriptions and tensors; `missing` is what its capture named as not in it."""
        from unbroken.capture.rng import kept_generators

        started = time.monotonic()
        with kept_generators():  # what is looked at for the first time imports Stable-Baselines3
            self._cut(step, kind, state, missing, owners)
        self._hold_back(time.monotonic() - started)

    def _cut(self, step: int, kind: str, state: Any, missing: Iterable[str], owners: Owners | None) -> None:
        from unbroken.proving.census import clock_readers, hidden_state

        owners = owners or Owners()
        content: dict[str, Any] = {"cut": kind, "leaves": collapsed(state), "missing": list(missing)}
        content["threads"] = _threads()
        content["hidden"] = hidden_state(owners)
        if not self._clocks_said:
            self._clocks_said = True
            content["clocks"] = clock_readers(owners)
        self._write("cut", step=step, **content)

    def failed_cut(self, step: int, reason: str) -> None:
        """The state at a cut could not be captured."""
        self._write("cut", step=step, cut="failed", leaves={}, missing=[reason], hidden={}, threads=_threads())

    def over(self, step: int) -> bool:
        """Whether the training has come as far as it is to be followed."""
        return self.limit is not None and step >= self.limit

    def _hold_back(self, seconds: float) -> None:
        self._capturing += seconds
        if self._capturing > max(1.0, _CAPTURE_SHARE * (time.monotonic() - self._started)):
            # multiples of a multiple: what is traced less often is still traced where the other process traces
            self._every, self._capturing, self._started = 2 * self._every, 0.0, time.monotonic()

    def _write(self, event: str, **content: Any) -> None:
        line = json.dumps({"event": event, "call": self._call, "at": time.time(), **content})
        os.write(self._file, line.encode() + b"\n")


def digest(value: Any) -> Digest:
    """Hash and beginning of an array, tensor, plain value or container of them."""
    if isinstance(value, Mapping):
        items = {str(key): digest(item) for key, item in value.items()}
        return [
            _hash(repr(sorted(items.items())).encode()),
            ", ".join(f"{k}={v[1]}" for k, v in items.items())[:_MOST_SHOWN],
        ]
    from unbroken.capture.comparison import leaf_bytes

    if hasattr(value, "tolist") and not hasattr(value, "detach"):
        import numpy as np

        value = np.asarray(value)
    return [_hash(leaf_bytes(value)), _shown(value)]


def collapsed(state: Any) -> dict[str, Digest]:
    """Digests of all leaves of a state by name; a container of more than a few items, as a history, has one for all of them."""
    from unbroken.capture.comparison import leaves

    found = [(name, digest(value)) for name, value in leaves(state)]
    many = _long_containers(name for name, _ in found)
    homes: dict[str, list[tuple[str, Digest]]] = {}
    for name, one in found:
        homes.setdefault(_home(name, many), []).append((name, one))
    return {home: members[0][1] if home == members[0][0] else _of_all(members) for home, members in homes.items()}


def _long_containers(names: Iterable[str]) -> frozenset[str]:
    items: dict[str, set[str]] = {}
    for name in names:
        for index in _INDEX.finditer(name):
            items.setdefault(name[: index.start()], set()).add(index[0])
    return frozenset(container for container, indices in items.items() if len(indices) > _MANY)


def _home(name: str, many: frozenset[str]) -> str:
    """The name under which a leaf's digest is kept: its own, or that of the outermost long container around it."""
    heads = (name[: index.start()] for index in _INDEX.finditer(name))
    return next((f"{head}[...]" for head in heads if head in many), name)


def _of_all(members: list[tuple[str, Digest]]) -> Digest:
    whole = _hash("".join(f"{name}{one[0]}" for name, one in members).encode())
    # what was added last is where long lists differ
    return [whole, f"{len(members)} values, the last {members[-1][1][1]}"]


def _hash(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


def _shown(value: Any) -> str:
    if hasattr(value, "detach"):
        value = value.detach().cpu().float().numpy() if value.is_floating_point() else value.detach().cpu().numpy()
    if hasattr(value, "tolist") and getattr(value, "shape", ()) != ():
        flat = value.reshape(-1)
        items = ", ".join(_number(item) for item in flat[:_SHOWN_ITEMS].tolist())
        more = f", ... {flat.size} in all" if flat.size > _SHOWN_ITEMS else ""
        return f"[{items}{more}]"[:_MOST_SHOWN]
    return repr(value.tolist() if hasattr(value, "tolist") else value)[:_MOST_SHOWN]


def _number(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _threads() -> int:
    import torch

    return torch.get_num_threads()
