"""State that no capture holds, looked at while a training runs: globals, class attributes, closures and defaults of user code.

`unbroken prove` compares it between a resumed process and the undisturbed twin at the same step: what differs right after a
resume has not come back. Reads only; iterators and C objects cannot be looked at.
"""

from __future__ import annotations

import contextlib
import random
import types
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from unbroken.capture.hidden import plain_functions
from unbroken.capture.objects import Describer, attributes_of, is_space
from unbroken.proving.functions import (
    closure_of,
    defaults_of,
    functions_of,
    globals_of,
    is_users,
    place_of,
    reads_clock,
    users_classes,
    users_modules,
)
from unbroken.tracing import Owners, collapsed

_CAPTURED = (BaseAlgorithm, BaseCallback, VecEnv, gymnasium.Env)
_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_GENERATORS = (np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random, torch.Generator)
_LARGE_ITEMS = 1_000
_LARGE_BYTES = 10_000_000
_DEEPEST = 3
_KINDS: dict[str, Any] = {"optimizer": torch.optim.Optimizer, "network": torch.nn.Module, "generator": _GENERATORS}

Found = dict[str, dict[str, Any]]


def hidden_state(owners: Owners) -> Found:
    """By place: its kind (optimizer, network, generator, value), the parts whose code uses it, digests of its leaves."""
    found: Found = {}
    for place, value, role in _places(owners):
        for name, item in _expanded(place, value):
            entry = found.get(name) or _entry(item)
            if entry is not None:
                found[name] = entry
                if role not in entry["roles"]:
                    entry["roles"].append(role)
    return found


def clock_readers(owners: Owners) -> list[dict[str, str]]:
    """The user's functions that read a clock, with the part of the training whose code reaches them."""
    found = []
    for role, objects in owners.by_role().items():
        for function in functions_of(objects):
            clock = reads_clock(function)
            if clock is not None:
                found.append({"role": role, "function": place_of(function), "clock": clock})
    return found


def _places(owners: Owners) -> Iterator[tuple[str, Any, str]]:
    for role, objects in owners.by_role().items():
        for owner in objects:
            for cls in users_classes(type(owner)):
                yield from ((place, value, role) for place, value in _class_attributes(cls))
        for function in functions_of(objects):
            yield from ((place, value, role) for place, value in _held_by(function))
    for module in users_modules():
        yield from ((place, value, "script") for place, value in _in_module(module))


def _class_attributes(cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        if not name.startswith("__") and not plain_functions(value):
            yield f"class attribute {cls.__name__}.{name}", value


def _held_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    where = function.__qualname__.replace(".<locals>", "")
    # functions of one closure share its variables: named after the enclosing function
    enclosing = where.rpartition(".")[0] or where
    yield from ((f"variable {name} in {enclosing}", value) for name, value in closure_of(function))
    yield from ((f"default {name} of {where}", value) for name, value in defaults_of(function))
    yield from ((f"global {function.__module__}.{name}", value) for name, value in globals_of(function))


def _in_module(module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(module).items()):
        if name.startswith("__"):
            continue
        if isinstance(value, type) and is_users(value):
            yield from _class_attributes(value)
        else:
            yield f"global {module.__name__}.{name}", value
            if isinstance(value, types.FunctionType) and is_users(value):
                yield from _held_by(value)


def _expanded(place: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """A place, and the generators, networks and optimizers inside its containers and objects as places of their own."""
    if value is None or isinstance(value, (*_CAPTURED, *_CODE)) or is_space(value):
        return
    if _kind(value) != "value" or depth >= _DEEPEST:
        yield place, value
        return
    inner = dict(_inside(value))
    deeper = [item for name, part in inner.items() for item in _expanded(f"{place}{name}", part, depth + 1)]
    special = [(name, part) for name, part in deeper if _kind(part) != "value"]
    yield from special
    if not special and not any(isinstance(part, _CAPTURED) for part in inner.values()):
        yield place, value


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and len(value) <= _LARGE_ITEMS:
        yield from ((f"[{key!r}]", item) for key, item in list(value.items()))
    elif isinstance(value, list | tuple | set | frozenset) and len(value) <= _LARGE_ITEMS:
        yield from ((f"[{k}]", item) for k, item in enumerate(list(value)))
    elif is_users(value) or isinstance(value, types.SimpleNamespace):
        yield from ((f".{name}", item) for name, item in attributes_of(value).items())


def _kind(value: Any) -> str:
    return next((kind for kind, types_ in _KINDS.items() if isinstance(value, types_)), "value")


def _entry(value: Any) -> dict[str, Any] | None:
    with contextlib.suppress(Exception):  # a look at the user's objects must not end his training
        content = _content(value)
        if content is not None:
            return {"kind": _kind(value), "roles": [], "leaves": collapsed(content)}
    return None


def _content(value: Any) -> Any:
    """The value as leaves that can be hashed; None for what is large or cannot be described."""
    if isinstance(value, torch.nn.Module | torch.optim.Optimizer):
        return {"state": value.state_dict()}
    if getattr(value, "nbytes", 0) > _LARGE_BYTES or (hasattr(value, "__len__") and len(value) > _LARGE_ITEMS):
        return {"items": len(value)}
    describer = Describer()
    described = describer.describe(value)
    return None if describer.opaque else {"value": described}
