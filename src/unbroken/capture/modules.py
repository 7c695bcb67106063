"""What a training's networks and optimizers hold beside their state dicts.

A state dict has parameters and persistent buffers. A network or an optimizer of the user's may count, average or freeze
beside them. As what the constructor was given is configuration, attributes count as state once they differ from what
they were after construction. The libraries' own networks keep nothing but plain numbers outside their state dicts.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

from unbroken.capture.objects import LIBRARIES
from unbroken.capture.training_parts import describer_for, digest_of, filler_for
from unbroken.capture.unchanged import Layers

_NUMBERS = (bool, int, float, np.ndarray, np.generic, np.random.Generator)
_OF_TORCH = frozenset(vars(torch.nn.Module())) | {"defaults", "state", "param_groups", "_zero_grad_profile_name"}


def digests(model: BaseAlgorithm) -> dict[str, str]:
    """Every attribute of the user's own networks and optimizers by its place: taken after construction."""
    found = {}
    for owner, part in _parts(model):
        if _is_users(part):
            found.update({f"{owner}.{name}": digest_of(model, value) for name, value in _attributes(part)})
    return found


class SteadyModules:
    """What was found in a training's networks and optimizers, for as long as nothing there can have changed. Not thread safe."""

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._layers: Layers | None = None
        self._parameters: list[torch.nn.Parameter] = []
        self._frozen: list[bool] = []
        self._described: dict[str, Any] | None = None
        self._inside: set[int] | None = None

    def look(self, model: BaseAlgorithm) -> bool:
        """Forget what does not hold any more; to be called before each capture. Returns whether the policy is as at the last."""
        parts = [model.policy, *(recursive_getattr(model, name) for name in model._get_torch_save_params()[0])]
        same = len(parts) == len(self._parts) and all(map(operator.is_, parts, self._parts))
        if same and self._layers is not None and self._layers.are_same():
            frozen = [parameter.requires_grad for parameter in self._parameters]
            if frozen != self._frozen:
                self._described, self._frozen = None, frozen
            return True
        self._parts, self._described, self._inside = parts, None, None
        self._layers = Layers(model.policy) if isinstance(model.policy, torch.nn.Module) else None
        self._parameters = list(model.policy.parameters()) if self._layers else []
        self._frozen = [parameter.requires_grad for parameter in self._parameters]
        return False

    def inside(self, model: BaseAlgorithm) -> set[int]:
        """As `in_state_dicts`."""
        if self._inside is None:
            found = in_state_dicts(model)
            if any(isinstance(part, torch.nn.Module) and part is not model.policy for part in self._parts):
                return found
            self._inside = found
        return self._inside

    def captured(self, model: BaseAlgorithm, before: dict[str, str] | None, missing: list[str]) -> dict[str, Any]:
        """As `capture_modules`."""
        if self._described is not None:
            return self._described
        described = capture_modules(model, before, missing)
        if self._layers is not None and all(map(_is_steady, self._layers.modules)):
            others = [part for part in self._parts if part is not model.policy]
            steady = not any(_is_users(part) or isinstance(part, torch.nn.Module) for part in others)
            self._described = described if steady else None
        return described


def _is_steady(module: torch.nn.Module) -> bool:
    """Whether what is captured of a module can only change with the objects in its attributes."""
    numbers = (value for _, value in _attributes(module) if isinstance(value, _NUMBERS))
    changeable = any(isinstance(value, np.ndarray | np.random.Generator) for value in numbers)
    return not (_is_users(module) or changeable or _fleeting_buffers(module))


def capture_modules(model: BaseAlgorithm, before: dict[str, str] | None, missing: list[str]) -> dict[str, Any]:
    """Descriptions by part: numbers of the libraries' networks, what has changed in the user's, buffers, frozen parameters."""
    described: dict[str, Any] = {}
    for owner, part in _parts(model):
        kept = {n: v for n, v in _attributes(part) if _is_state(model, f"{owner}.{n}", part, v, before)}
        fleeting = _fleeting_buffers(part)
        described[owner] = {"fields": {}, "buffers": {}, "frozen": _frozen(part)}
        if kept or fleeting:
            describer = describer_for(model)
            described[owner]["fields"] = {name: describer.describe(value, name) for name, value in kept.items()}
            missing += [f"{owner}.{what}" for what in describer.opaque]
            described[owner]["buffers"] = {name: describer.describe(value) for name, value in fleeting}
    return described


def restore_modules(model: BaseAlgorithm, described: dict[str, Any]) -> list[str]:
    """Put captured attributes into like-built networks and optimizers; returns what did not fit."""
    filler = filler_for(model)
    for owner, part in _parts(model):
        held = described.get(owner)
        if held is None:
            continue
        filler.fill_attributes(part, held["fields"], owner)
        for name, value in _fleeting_buffers(part):
            if name in held["buffers"]:
                part._buffers[name] = filler.build(held["buffers"][name], value, f"{owner}.{name}")
        _freeze(part, held["frozen"])
    return filler.problems


def in_state_dicts(model: BaseAlgorithm) -> set[int]:
    """Identities of the networks and optimizers that SB3's own members hold, and all that is inside them."""
    names, _ = model._get_torch_save_params()
    found: set[int] = set()
    for name in names:
        holder = recursive_getattr(model, name)
        found.update(map(id, holder.modules()) if isinstance(holder, torch.nn.Module) else [id(holder)])
    return found


def _parts(model: BaseAlgorithm) -> Iterator[tuple[str, Any]]:
    if isinstance(model.policy, torch.nn.Module):
        for name, module in model.policy.named_modules():
            yield f"policy.{name}" if name else "policy", module
    names, _ = model._get_torch_save_params()
    for name in names:
        holder = recursive_getattr(model, name)
        if isinstance(holder, torch.optim.Optimizer):
            yield name, holder


def _attributes(part: Any) -> Iterator[tuple[str, Any]]:
    """Attributes without torch's own, other networks and optimizers, and code."""
    for name, value in vars(part).items():
        if name in _OF_TORCH or isinstance(value, torch.nn.Module | torch.optim.Optimizer) or callable(value):
            continue
        yield name, value


def _is_users(part: Any) -> bool:
    return not f"{type(part).__module__}.".startswith(LIBRARIES)


def _is_state(model: BaseAlgorithm, place: str, part: Any, value: Any, before: dict[str, str] | None) -> bool:
    if not _is_users(part):
        name = place.rpartition(".")[2]
        return isinstance(part, torch.nn.Module) and not name.startswith("_") and isinstance(value, _NUMBERS)
    return before is None or digest_of(model, value) != before.get(place)


def _fleeting_buffers(part: Any) -> list[tuple[str, torch.Tensor]]:
    """Buffers that a module keeps out of its state dict."""
    names = getattr(part, "_non_persistent_buffers_set", ())
    return [(name, part._buffers[name]) for name in sorted(names) if part._buffers.get(name) is not None]


def _frozen(part: Any) -> list[str]:
    own = getattr(part, "_parameters", {})
    return [name for name, value in own.items() if value is not None and not value.requires_grad]


def _freeze(part: Any, frozen: list[str]) -> None:
    for name, value in getattr(part, "_parameters", {}).items():
        if value is not None:
            value.requires_grad_(name not in frozen)
