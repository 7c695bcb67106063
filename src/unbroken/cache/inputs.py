"""What a result depends on, and its fingerprint."""

from __future__ import annotations

import enum
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from unbroken.cache.plain import plain

# of what is hashed, of entries, and of the file that holds them: a new one is another fingerprint for everything, so that files
# of two versions never have the same name
FORMAT = 1
Kind = Literal["baseline", "rl"]
_SOURCES = "sources."


class Absent(enum.Enum):
    """What stands for a value that one side does not have."""

    ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """One place in which two sets of inputs differ; a value that one side does not have is `Absent.ABSENT` there."""

    place: str
    first: Any
    second: Any

    def text(self) -> str:
        """For people. Of a source file only that it differs: nobody can read a hash."""
        if self.place.startswith(_SOURCES):
            name = printable(self.place.removeprefix(_SOURCES))
            sides = [value is Absent.ABSENT for value in (self.first, self.second)]
            return (
                f"{name}: only in the {'second' if sides[0] else 'first'}" if any(sides) else f"{name}: other content"
            )
        return f"{printable(self.place.removeprefix('values.'))}: {shown(self.first)} -> {shown(self.second)}"

    def plain(self) -> dict[str, Any]:
        """As plain data; the side that is absent has no key."""
        sides = {"first": self.first, "second": self.second}
        return {"place": self.place, **{name: value for name, value in sides.items() if value is not Absent.ABSENT}}


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
    """The fingerprint of an `Inputs.record`. Raises TypeError or ValueError for what is none."""
    return hashlib.blake2b(_text(record).encode("ascii"), digest_size=16).hexdigest()


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Where two `Inputs.record` differ, leaf by leaf, in the order of the first; empty exactly if their fingerprints are equal."""
    return list(_differences("", first, second))


def _differences(place: str, first: Any, second: Any) -> Iterator[Difference]:
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [*first, *(key for key in second if key not in first)]
        for key in keys:
            inner = f"{place}.{key}" if place else key
            yield from _differences(inner, first.get(key, Absent.ABSENT), second.get(key, Absent.ABSENT))
        if set(first) == set(second) and list(first) != list(second):
            yield Difference(f"{place} (order)", list(first), list(second))
    elif isinstance(first, list) and isinstance(second, list):
        for index, (one, other) in enumerate(itertools.zip_longest(first, second, fillvalue=Absent.ABSENT)):
            yield from _differences(f"{place}[{index}]", one, other)
    elif Absent.ABSENT in (first, second) or _text(first) != _text(second):
        yield Difference(place, first, second)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def shown(value: Any) -> str:
    """A plain value for people, at most 60 characters, all of them printable."""
    text = value.value if isinstance(value, Absent) else printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: str) -> str:
    """The text with escapes for what a terminal might obey or not show; entries of others hold any characters."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
