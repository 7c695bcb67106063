"""Hyper-parameters as written in YAML or on the command line, turned into what constructors take.

Schedules: `lin_3e-4` falls linearly to zero over the target, `module:name` is imported. Action noise:
`{type: normal|ornstein-uhlenbeck, sigma: 0.1, mean: 0}`. Activations by torch's name. `train_freq` as `[n, unit]`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from typing import Any

import numpy as np

from unbroken.errors import ConfigurationError
from unbroken.targets import find_modules_here

_OURS = {
    "policy": "policy",
    "env": "target",
    "seed": "seed",
    "device": "device",
    "tensorboard_log": None,
    "verbose": None,
    "_init_setup_model": None,
    "monitor_wrapper": None,
}
_LINEAR = re.compile(r"lin_(?P<start>[0-9.]+(e[+-]?[0-9]+)?)")


def constructor_arguments(cls: type, given: dict[str, Any], n_actions: int | None) -> dict[str, Any]:
    """Keyword arguments for an algorithm's constructor. `n_actions` is the size of a continuous action, else None.

    Raises ConfigurationError for a name the constructor lacks, with the nearest one it has.
    """
    known = [name for name in inspect.signature(cls).parameters if name not in _OURS]
    for name in given:
        if name in _OURS:
            place = _OURS[name]
            raise ConfigurationError(
                f"hyperparameters.{name}: " + (f"set {place!r} instead" if place else "unbroken sets this itself")
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigurationError(f"{cls.__name__} has no hyper-parameter {name!r}{hint}")
    return {name: _argument(name, value, n_actions) for name, value in given.items()}


def _argument(name: str, value: Any, n_actions: int | None) -> Any:
    if name == "action_noise":
        return _action_noise(value, n_actions)
    if name == "policy_kwargs":
        return _policy_arguments(value)
    if name == "train_freq" and isinstance(value, list):
        return tuple(value)
    if name.endswith("_class") and isinstance(value, str):
        return imported(value)
    if isinstance(value, str) and (match := _LINEAR.fullmatch(value)):
        from stable_baselines3.common.utils import LinearSchedule

        return LinearSchedule(float(match["start"]), 0.0, 1.0)
    if isinstance(value, str) and re.fullmatch(r"[\w.]+:[\w.]+", value):
        return imported(value)
    return value


def _action_noise(value: Any, n_actions: int | None) -> Any:
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    if value is None:
        return None
    kinds: dict[str, type] = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}
    if not isinstance(value, dict) or value.get("type") not in kinds or set(value) - {"type", "sigma", "mean"}:
        raise ConfigurationError("action_noise is {type: normal or ornstein-uhlenbeck, sigma: 0.1, mean: 0}")
    if n_actions is None:
        raise ConfigurationError("action_noise needs a continuous action space")
    mean, sigma = (
        np.full(n_actions, float(value.get(key, default))) for key, default in (("mean", 0.0), ("sigma", 0.1))
    )
    return kinds[value["type"]](mean, sigma)


def _policy_arguments(value: Any) -> dict[str, Any]:
    import torch

    if not isinstance(value, dict):
        raise ConfigurationError("policy_kwargs is a section, such as {net_arch: [64, 64]}")
    result = dict(value)
    activation = result.get("activation_fn")
    if isinstance(activation, str) and ":" not in activation:
        by_lower = {
            name.lower(): getattr(torch.nn, name) for name in ("Tanh", "ReLU", "ELU", "GELU", "LeakyReLU", "SiLU")
        }
        if activation.lower() not in by_lower:
            raise ConfigurationError(f"activation_fn {activation!r} is not one of {', '.join(by_lower)} or module:name")
        result["activation_fn"] = by_lower[activation.lower()]
    return {
        key: imported(item) if isinstance(item, str) and re.fullmatch(r"[\w.]+:[\w.]+", item) else item
        for key, item in result.items()
    }


def imported(place: str) -> Any:
    """The object that `module:name` names. Raises ConfigurationError."""
    module_name, _, name = place.partition(":")
    if not module_name or not name:
        raise ConfigurationError(f"{place!r} names no code; write it as module:name")
    find_modules_here()
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{place!r} cannot be imported: {error}") from error
    return found
