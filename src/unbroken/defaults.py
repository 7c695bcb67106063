"""What a training of one of our scenarios begins with, where the user says nothing else; other targets have the algorithm's own.

A run keeps what it began with: a change of this table changes new runs only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from unbroken.config import DEFAULT_TARGET, usual_algorithm
from unbroken.fingerprint import traffic_scenario

# lambda = 1 and whole episodes in each rollout: decision 0014 says what happens otherwise
_TRAFFIC: dict[str, Any] = {
    "environment": {"n_envs": 32, "normalize": {"norm_obs": False, "norm_reward": True, "gamma": 0.97}},
    "evaluation": {"every": 76_800},
    "total_timesteps": 307_200,
    "hyperparameters": {
        "n_steps": 240,
        "batch_size": 960,
        "n_epochs": 5,
        "gamma": 0.97,
        "gae_lambda": 1.0,
        "learning_rate": 1e-3,
        "ent_coef": 0.003,
    },
}
# Holding back pays after a quarter of an hour, with gamma 0.97 never; noise of 200 PCU/h, more only breaks traffic down
_SPEED: dict[str, Any] = {
    "environment": {"n_envs": 32, "normalize": {"norm_obs": False, "norm_reward": True, "gamma": 0.99}},
    "evaluation": {"every": 76_800, "episodes": 10},
    "total_timesteps": 768_000,
    "hyperparameters": {
        **_TRAFFIC["hyperparameters"],
        "gamma": 0.99,
        "ent_coef": 0.0,
        "policy_kwargs": {"log_std_init": -1.0},
    },
}
_TABLE: dict[str, dict[str, Any]] = {
    "traffic_light_control": {**_TRAFFIC, "total_timesteps": 384_000},
    "ramp_metering": {**_TRAFFIC, "total_timesteps": 614_400},
    "adaptive_speed_control": _SPEED,
}


def scenario_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration keys to lay under those of a new run of PPO on one of our scenarios; nothing for any other."""
    name = traffic_scenario(str(values.get("target", "")))
    return copy.deepcopy(_TABLE.get(name or "", {})) if usual_algorithm(values.get("algo", "ppo")) == "ppo" else {}


def default_target(values: Mapping[str, Any], stored: Mapping[str, Any]) -> int:
    """Steps that a run is trained to where the user names none; `stored` is what `run.yaml` holds, empty for a new run.

    That of the time when the run began: another version's would train a finished run on.
    """
    if stored.get("config"):
        return int(stored.get("default_target", DEFAULT_TARGET))
    return int(scenario_defaults(values).get("total_timesteps", DEFAULT_TARGET))
