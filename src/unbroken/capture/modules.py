"""What a training's networks and optimizers hold beside their state dicts.

A state dict has parameters and persistent buffers. A network or an optimizer of the user's may count, average or freeze
beside them. As what the constructor was given is configuration, attributes count as state once they differ from what
they were after construction. The libraries' own networks keep nothing but plain numbers outside their state dicts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

from unbroken.capture.objects import LIBRARIES
from unbroken.capture.training_parts import describer_for, digest_of, filler_for

_NUMBERS = (bool, int, float, np.ndarray, np.generic, np.random.Generator)
_OF_TORCH = frozenset(vars(torch.nn.Module())) | {"defaults", "state", "param_groups", "_zero_grad_profile_name"}


def digests(model: BaseAlgorithm) -> dict[str, str]:
    """Every attribute of the user's own networks and optimizers by its place: taken after construction."""
    found = {}
    for owner, part in _parts(model):
        if _is_users(part):
            found.update({f"{owner}.{name}": digest_of(model, value) for name, value in _attributes(part)})
    return found


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
