"""Noticing that nothing has changed, at a fraction of what describing it costs.

A training's networks keep their layers, and its constructor's arguments their values, over thousands of checkpoints. Whatever
is not certain here to be unchanged counts as changed, and is described.
"""

from __future__ import annotations

import collections
import enum
import itertools
import marshal
import operator
from collections.abc import Callable
from typing import Any

import torch

_FIXED = frozenset({bool, int, float, complex, str, bytes, type(None)})
_TABLES = (dict, collections.OrderedDict)
# without references between values: the later versions write them where something else happens to hold the value too
_MARSHAL = 2


class Layers:
    """The modules inside a network as they were when this was made: which they are, their attributes and their parameters.

    Attributes are compared by identity. What an attribute holds inside, such as an array's numbers, is not looked at.
    """

    def __init__(self, root: torch.nn.Module) -> None:
        self.modules = tuple(root.modules())
        tables = [table for module in self.modules for table in _tables(module)]
        # most of a module's tables are for hooks that nobody registers
        self._empty = [table for table in tables if not table]
        self._tables = [table for table in tables if table]
        self._names, self._values = self._now()

    def are_same(self) -> bool:
        """Whether every attribute, layer, parameter, buffer and hook is the object that it was."""
        if any(self._empty):
            return False
        names, values = self._now()
        return (
            names == self._names and len(values) == len(self._values) and all(map(operator.is_, values, self._values))
        )

    def _now(self) -> tuple[list[str], list[Any]]:
        chained = itertools.chain.from_iterable
        return list(chained(self._tables)), list(chained(map(dict.values, self._tables)))


class Digests:
    """Digests of values by place, taken again only from a value that is another object or holds something else."""

    def __init__(self, digest: Callable[[Any], str]) -> None:
        self._digest = digest
        self._known: dict[str, tuple[Any, bytes, str]] = {}

    def of(self, place: str, value: Any) -> str:
        """The digest of the value that is at this place now."""
        content = content_of(value)
        known = self._known.get(place)
        if known is not None and known[0] is value and known[1] == content:
            return known[2]
        found = self._digest(value)
        if content is None:
            self._known.pop(place, None)
        else:
            self._known[place] = (value, content, found)
        return found


def content_of(value: Any) -> bytes | None:
    """Bytes that change with what a value of Python's own types holds; None for one that may hold other objects."""
    if _is_fixed(value):
        return b""
    try:
        return marshal.dumps(value, _MARSHAL)
    except ValueError:
        return None


def _is_fixed(value: Any) -> bool:
    """Whether nothing can change it but putting another object in its place."""
    if type(value) in _FIXED or isinstance(value, enum.Enum):
        return True
    return isinstance(value, tuple) and all(map(_is_fixed, value))


def _tables(module: torch.nn.Module) -> list[dict[str, Any]]:
    """A module's attributes, and the tables among them, which torch keeps its parameters, layers and hooks in."""
    return [vars(module), *(value for value in vars(module).values() if type(value) in _TABLES)]
