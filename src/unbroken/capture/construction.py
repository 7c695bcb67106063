"""What a model was right after its construction, to tell configuration from state.

What the constructor is given belongs to the configuration, and a changed configuration must win over a checkpoint. But training
may change such values, as a callback does that anneals `ent_coef`: then they are state. So they are compared with what they
were.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from unbroken.capture import callables, modules
from unbroken.capture.configured import configured_names
from unbroken.capture.training_parts import describer_for, digest_of, filler_for
from unbroken.capture.unchanged import Digests

MODEL_SKIP = frozenset(
    [
        "policy",
        "env",
        "_vec_normalize_env",
        "_logger",
        "_custom_logger",
        "replay_buffer",
        "rollout_buffer",
        "device",
        "_unbroken",
        "start_time",
        "_total_timesteps",
        "_num_timesteps_at_start",
        "n_envs",
        "policy_class",
        "lr_schedule",
        "target_entropy",
    ]
)
"""Attributes of a model that are captured elsewhere or that are no state."""


@dataclass(frozen=True)
class Construction:
    """The constructor's plain arguments, and digests of all arguments, of callables, and of the user's own networks."""

    plain: dict[str, Any]
    configured: dict[str, str]
    callables: dict[str, dict[str, str]]
    modules: dict[str, str]


def construction_of(model: BaseAlgorithm) -> Construction:
    """To be taken from a model that has just been constructed."""
    configured = {name: digest_of(model, value) for name, value in _configured(model).items()}
    return Construction(plain_configuration(model), configured, callables.fingerprints(model), modules.digests(model))


def plain_configuration(model: BaseAlgorithm) -> dict[str, Any]:
    """The constructor's arguments that are plain values, as the model holds them now."""
    values = {name: getattr(model, name, None) for name in configured_names(type(model)) - MODEL_SKIP}
    return {name: value for name, value in sorted(values.items()) if isinstance(value, bool | int | float | str)}


def capture_changed(
    model: BaseAlgorithm, construction: Construction | None, missing: list[str], digests: Digests
) -> dict[str, Any]:
    """Descriptions of the constructor's arguments that training has changed; none where nobody saw the construction."""
    if construction is None:
        return {}
    found = {
        name: value
        for name, value in _configured(model).items()
        if not _is_as_given(value, construction.plain.get(name))
        and digests.of(name, value) != construction.configured.get(name)
    }
    if not found:
        return {}
    describer = describer_for(model)
    changed = {name: describer.describe(value, name) for name, value in found.items()}
    missing += [f"model.{what}" for what in describer.opaque]
    return changed


def restore_changed(model: BaseAlgorithm, described: dict[str, Any]) -> list[str]:
    """Put changed arguments back; returns what did not fit."""
    filler = filler_for(model)
    filler.fill_attributes(model, described, "model")
    return filler.problems


def _is_as_given(value: Any, given: Any) -> bool:
    """A plain value needs no digest to be compared."""
    return type(value) is type(given) and type(value) in (bool, int, float, str) and repr(value) == repr(given)


def _configured(model: BaseAlgorithm) -> dict[str, Any]:
    values = vars(model)
    own = (torch.nn.Module, torch.optim.Optimizer)
    present = ((name, values[name]) for name in _names(type(model)) if name in values)
    return {name: value for name, value in present if not callable(value) and not isinstance(value, own)}


@functools.lru_cache(maxsize=256)
def _names(cls: type) -> tuple[str, ...]:
    return tuple(sorted(configured_names(cls) - MODEL_SKIP))
