"""Descriptions of numbers, text and dictionaries of nothing else: most of what a training holds, so that it has to be quick."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from typing import Any

ATOMS = frozenset({bool, int, float, str, type(None)})
"""Types whose values have no identity that matters."""
AS_THEY_ARE = ATOMS - {int, float}
"""Types of which every value is its own description."""

# Python refuses to read longer decimals from text
_MOST_BITS = 4096
_TEXT = frozenset({str})


def is_flat(value: Any) -> bool:
    """Whether it is a dictionary of numbers and text by text, such as an episode's statistics."""
    return type(value) is dict and ATOMS.issuperset(map(type, value.values())) and _TEXT.issuperset(map(type, value))


def are_flat(values: Collection[Any]) -> bool:
    """Whether all are flat dictionaries, each another one: the statistics of episodes, of which each cut describes a hundred."""
    chained = itertools.chain.from_iterable
    return (
        set(map(type, values)) == {dict}
        and ATOMS.issuperset(map(type, chained(map(dict.values, values))))
        and _TEXT.issuperset(map(type, chained(values)))
        and len(set(map(id, values))) == len(values)
    )


def describe_all_flat(head: dict[str, Any], copies: list[dict[str, Any]], first: int) -> Any:
    """The description `head` of a sequence with such dictionaries in it, of which the first has the number `first`."""
    return {**head, "v": [describe_flat(copied, number) for number, copied in enumerate(copies, first)]}


def describe_flat(value: dict[str, Any], number: int) -> Any:
    """The description of a flat dictionary."""
    return {"t": "dict", "c": "dict", "i": number, "v": [[key, describe_atom(item)] for key, item in value.items()]}


def describe_atom(value: Any) -> Any:
    """The description of a number, a text, a truth value or None."""
    if type(value) is float and not math.isfinite(value):
        return {"t": "float", "v": repr(value)}
    if type(value) is int and value.bit_length() > _MOST_BITS:
        return {"t": "int", "v": hex(value)}
    return value
