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

import numpy as np
import torch

_FIXED = frozenset({bool, int, float, complex, str, bytes, type(None)})
_CONTAINERS = frozenset({list, tuple, set, frozenset})
_TABLES = (dict, collections.OrderedDict)
# without references between values: the later versions write them where something else happens to hold the value too
_MARSHAL = 2


class Layers:
    """The modules inside a network as they were when this was made: which they are, their attributes and their parameters.

    Attributes are compared by identity. What an attribute holds inside, such as an array's numbers, is not looked at. A network
    that keeps its parameters elsewhere than in Python's dictionaries, such as TorchScript's, is never the same.
    """

    def __init__(self, root: torch.nn.Module) -> None:
        self.modules = tuple(root.modules())
        self._are_visible = all(map(_is_visible, self.modules))
        tables = [table for module in self.modules for table in _tables(module)]
        # most of a module's tables are for hooks that nobody registers
        self._empty = [table for table in tables if not table]
        self._tables = [table for table in tables if table]
        self._names, self._values = self._now()

    def are_same(self) -> bool:
        """Whether every attribute, layer, parameter, buffer and hook is the object that it was."""
        if any(self._empty) or not self._are_visible:
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
    if type(value) is np.ndarray and not value.dtype.hasobject:
        return repr((value.dtype, value.shape, value.strides)).encode() + value.tobytes()
    try:
        # marshal itself would also take any buffer, by its bytes alone
        return marshal.dumps(value, _MARSHAL) if _is_of_python(value) else None
    except (ValueError, RecursionError):
        return None


def _is_fixed(value: Any) -> bool:
    """Whether nothing can change it but putting another object in its place."""
    if type(value) in _FIXED or isinstance(value, enum.Enum):
        return True
    return type(value) is tuple and all(map(_is_fixed, value))


def _is_of_python(value: Any) -> bool:
    if type(value) is dict:
        return all(map(_is_of_python, value)) and all(map(_is_of_python, value.values()))
    return type(value) in _FIXED or (type(value) in _CONTAINERS and all(map(_is_of_python, value)))


def _is_visible(module: torch.nn.Module) -> bool:
    kept = (module._parameters, module._buffers, module._modules)
    return not isinstance(module, torch.jit.ScriptModule) and all(type(table) in _TABLES for table in kept)


def _tables(module: torch.nn.Module) -> list[dict[str, Any]]:
    """A module's attributes, and the tables among them, which torch keeps its parameters, layers and hooks in."""
    return [vars(module), *(value for value in vars(module).values() if type(value) in _TABLES)]
