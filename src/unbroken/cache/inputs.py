"""What a result depends on, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from unbroken.cache.plain import plain

FORMAT = 1  # of what is hashed and of entries; a new one is another fingerprint for everything
Kind = Literal["baseline", "rl"]


@dataclass(frozen=True)
class Difference:
    """One place in which two sets of inputs differ; a value that one side does not have is None there."""

    place: str
    first: Any
    second: Any

    def text(self) -> str:
        """For people."""
        return f"{self.place}: {_shown(self.first)} -> {_shown(self.second)}"


@dataclass(frozen=True)
class Inputs:
    """Everything that a result depends on.

    `values` are named parts (network, demand, controller, …) of anything that `plain` takes; `sources` the digests of the code
    and data files, by path. `context` is recorded and not part of the fingerprint: versions and machine, between which results
    agree but perhaps not to the last bit. An entry whose context differs is used and never extended.
    """

    scenario: str
    kind: Kind
    values: Mapping[str, Any]
    sources: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def record(self) -> dict[str, Any]:
        """What the fingerprint is made of, as plain data."""
        return {
            "format": FORMAT,
            "scenario": self.scenario,
            "kind": self.kind,
            "values": {name: plain(self.values[name]) for name in sorted(self.values)},
            "sources": {name: self.sources[name] for name in sorted(self.sources)},
        }

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits."""
        return fingerprint_of(self.record)

    @property
    def short(self) -> str:
        """The first 8 digits, for people."""
        return self.fingerprint[:8]


def fingerprint_of(record: Mapping[str, Any]) -> str:
    """The fingerprint of an `Inputs.record`."""
    text = json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Where two `Inputs.record` differ, leaf by leaf, in the order of the first."""
    return list(_differences("", first, second))


def _differences(place: str, first: Any, second: Any) -> Iterator[Difference]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in [*first, *(key for key in second if key not in first)]:
            yield from _differences(f"{place}.{key}" if place else key, first.get(key), second.get(key))
        if list(first) != list(second) and set(first) == set(second):
            yield Difference(f"{place} (order)", list(first), list(second))
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            yield from _differences(f"{place}[{index}]", one, other)
    elif first != second or type(first) is not type(second):
        yield Difference(place, first, second)


def _shown(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
