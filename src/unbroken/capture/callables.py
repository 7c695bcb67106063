"""State inside a model's callables, such as a schedule that counts its calls.

A callable is configuration: the one that the configuration gives is used. But a schedule may be an object with attributes, or
a function over variables of its own, and what training changes in there is state. So the parts are compared with what
they were right after construction, and those that have changed are captured. What can only be seen to be hidden
(module globals that a function assigns, a callable put in another's place) is named.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.utils import FloatSchedule

from unbroken.capture.hidden import assigned_globals
from unbroken.capture.objects import LIBRARIES, attributes_of, code_name
from unbroken.capture.training_parts import describer_for, digest_of, filler_for
from unbroken.capture.unchanged import Digests

_ABSENT = object()


def callables_of(model: BaseAlgorithm) -> dict[str, Any]:
    """The callables among a model's attributes by name, without SB3's wrapper around schedules.

    Classes have no state of the model's; networks, optimizers and action noise are captured as what they are.
    """
    found = {}
    others = type | torch.nn.Module | torch.optim.Optimizer | ActionNoise
    for name, value in vars(model).items():
        if callable(value) and not isinstance(value, others):
            found[name] = value.value_schedule if isinstance(value, FloatSchedule) else value
    return found


def fingerprints(model: BaseAlgorithm) -> dict[str, dict[str, str]]:
    """Code and parts of each callable as short text: taken after construction, what to compare with later."""
    digests = Digests(lambda value: digest_of(model, value))
    return {name: _fingerprint(name, value, digests) for name, value in callables_of(model).items()}


def capture_callables(
    model: BaseAlgorithm, before: dict[str, dict[str, str]] | None, missing: list[str], digests: Digests
) -> dict[str, Any]:
    """Descriptions of the parts that have changed since `before`, by callable and part; gaps are added to `missing`.

    Without `before`, when nobody saw the construction, all parts of callables that no library has made count as changed.
    """
    described: dict[str, Any] = {}
    for name, value in callables_of(model).items():
        missing += [f"model.{name}: assigns the global {what}" for what in _globals_of(value)]
        now = _fingerprint(name, value, digests)
        was = before.get(name, {}) if before is not None else now if now["code"].startswith(LIBRARIES) else {}
        if before is not None and was.get("code") != now["code"]:
            missing.append(f"model.{name}: {now['code']} in the place of {was.get('code', 'a plain value')}")
            continue
        changed = {part for part in now if part != "code" and now[part] != was.get(part)}
        if not changed and not isinstance(value, functools.partial):
            continue
        describer = describer_for(model)
        if isinstance(value, functools.partial):
            describer.describe(value, "partial")
        parts = {part: describer.describe(held, part) for part, held in _parts(value) if part in changed}
        missing += [f"model.{name}.{what}" for what in describer.opaque]
        if parts:
            described[name] = parts
    return described


def restore_callables(model: BaseAlgorithm, described: dict[str, Any]) -> list[str]:
    """Put captured parts into the callables of a like-built model; returns what did not fit."""
    problems: list[str] = []
    present = callables_of(model)
    for name, parts in described.items():
        if name not in present:
            problems.append(f"model.{name} is no longer a callable: its state is dropped")
            continue
        filler = filler_for(model)
        live = dict(_parts(present[name]))
        for part, description in parts.items():
            value = filler.build(description, live.get(part, _ABSENT), f"model.{name}.{part}")
            if value is not _ABSENT:
                _put(present[name], part, value)
        problems += filler.problems
    return problems


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a callable holds, by name: variables of a function's closure, else the attributes of an object."""
    if isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # a variable that has not been assigned yet
                yield name, None
    elif isinstance(value, types.MethodType):
        # a callback is captured where callbacks are
        yield from () if isinstance(value.__self__, BaseCallback) else attributes_of(value.__self__).items()
    elif not isinstance(value, types.BuiltinFunctionType | functools.partial):
        yield from attributes_of(value).items()


def _put(value: Any, part: str, content: Any) -> None:
    if isinstance(value, types.FunctionType):
        (value.__closure__ or ())[value.__code__.co_freevars.index(part)].cell_contents = content
    else:
        object.__setattr__(value.__self__ if isinstance(value, types.MethodType) else value, part, content)


def _fingerprint(name: str, value: Any, digests: Digests) -> dict[str, str]:
    """A part that cannot be described counts as the same as long as its class is."""
    is_code = isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType)
    parts = {part: digests.of(f"{name}.{part}", held) for part, held in _parts(value)}
    return {**parts, "code": code_name(value if is_code else type(value))}


def _globals_of(value: Any) -> list[str]:
    function = value if isinstance(value, types.FunctionType | types.MethodType) else type(value).__call__
    code = getattr(function, "__code__", None)
    return sorted(assigned_globals(code)) if code is not None else []
