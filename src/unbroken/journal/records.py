"""A call of an environment as plain data: what was asked, what came back, and what it did to the global generators."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unbroken.capture.codec import Later, decode, digest, encode
from unbroken.capture.filling import Filler
from unbroken.capture.objects import Describer
from unbroken.capture.rng import capture_generators, restore_generators
from unbroken.errors import CaptureError

Record = dict[str, Any]


@dataclass(frozen=True)
class Heard:
    """The result of a call that has reset copies of the environment, and what their resets said, by number."""

    result: Any
    infos: dict[int, Any]


_PLAIN_VALUES = frozenset({"array", "scalar", "float", "floats"})
_PLAIN_CONTAINERS = {"dict": "dict", "sequence": "list", "tuple": "tuple"}


def question_of(arguments: Any) -> str:
    """Short text that changes with the arguments of a call."""
    return digest(Describer().describe(arguments))


def recorded(channel: int, name: str, question: str, run: Callable[[], Any]) -> tuple[Any, Record]:
    """Make a call; its result, and the record of it. Raises whatever the call raises."""
    before = _generators()
    made = run()
    result, infos = (made.result, made.infos) if isinstance(made, Heard) else (made, None)
    changed = _changed(before, _generators())
    states = capture_generators() if changed else {}
    record = {
        "channel": channel,
        "name": name,
        "question": question,
        "result": Describer().describe(result),
        # what of it cannot be described is listed with every checkpoint, and is no reason to do without a journal
        "infos": None if infos is None else {str(k): Describer().describe(info) for k, info in infos.items()},
        "generators": {kind: states[kind] for kind in changed},
    }
    return made, record


def answer(record: Record) -> Any:
    """The result of a recorded call, made anew; the generators are put where the call left them."""
    if record["generators"]:
        restore_generators({**capture_generators(), **record["generators"]})
    result = Filler().build(record["result"])
    if record["infos"] is None:
        return result
    return Heard(result, {int(k): Filler().build(info) for k, info in record["infos"].items()})


def require_rebuildable(record: Record) -> None:
    """Raise CaptureError if the result would not be the same when it is read again."""
    if _is_plain(record["result"]):
        return
    encoded = encode(record["result"])
    filler = Filler()
    rebuilt = filler.build(decode(encoded.document, b"".join(encoded.block())))
    if filler.problems or digest(Describer().describe(rebuilt)) != digest(record["result"]):
        why = f" ({filler.problems[0]})" if filler.problems else ""
        raise CaptureError(f"{record['name']} gives what has no plain form{why}")


def _is_plain(described: Any) -> bool:
    """Whether it is made of nothing but what most environments answer: no need to try."""
    if not isinstance(described, dict):
        # numbers, text, and what is described `Later`: lists of dictionaries of these
        return True
    kind = described["t"]
    if kind not in _PLAIN_CONTAINERS:
        return kind in _PLAIN_VALUES
    if described["c"] != _PLAIN_CONTAINERS[kind]:
        return False
    items = described["v"]
    return all(map(_is_plain, [part for pair in items for part in pair] if kind == "dict" else items))


def size_of(described: Any) -> int:
    """Bytes of the arrays in a description, and a guess for the rest."""
    if isinstance(described, np.ndarray):
        return described.nbytes + 64
    if type(described) is Later:
        return 64 + sum(map(size_of, described.given))
    if isinstance(described, dict):
        return 64 + sum(map(size_of, described.values()))
    return 64 + sum(map(size_of, described)) if isinstance(described, list) else 16


def _generators() -> dict[str, Any]:
    """States to be compared; much cheaper than descriptions, for this is done twice in every step."""
    found: dict[str, Any] = {"python": random.getstate(), "numpy": _comparable(np.random.get_state(legacy=False))}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = torch.get_rng_state().numpy().tobytes()
    return found


def _comparable(state: Any) -> Any:
    if isinstance(state, dict):
        return [_comparable(value) for value in state.values()]
    return state.tobytes() if isinstance(state, np.ndarray) else state


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [kind for kind, state in after.items() if before.get(kind) != state]
