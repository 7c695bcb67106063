"""What a training of one of our scenarios begins with, where the user says nothing else; other targets have the algorithm's own.

A run keeps what it began with: a change of this table changes new runs only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

# lambda = 1 and whole episodes in each rollout: decision 0014 says what happens otherwise
_TRAFFIC: dict[str, Any] = {
    "environment": {"n_envs": 16, "normalize": {"norm_obs": False, "norm_reward": True, "gamma": 0.99}},
    "hyperparameters": {
        "n_steps": 240,
        "batch_size": 960,
        "n_epochs": 5,
        "gamma": 0.99,
        "gae_lambda": 1.0,
        "learning_rate": 1e-3,
    },
}
_TABLE: dict[str, dict[str, Any]] = {
    "traffic_light_control": _TRAFFIC,
    "ramp_metering": _TRAFFIC,
    "adaptive_speed_control": _TRAFFIC,
}


def scenario_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration keys to lay under those of a new run of PPO on one of our scenarios; nothing for any other."""
    name = str(values.get("target", "")).removeprefix("unbroken/").removesuffix("-v0")
    return copy.deepcopy(_TABLE.get(name, {})) if values.get("algo", "ppo") == "ppo" else {}
