"""Statistics of normalised observations as plain JSON, for a model that is used without its training."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from unbroken.errors import DamagedFile

_VERSION = 1


def normalization_json(venv: VecEnv | None) -> bytes | None:
    """The statistics by which a training's observations are normalised; None where they are not.

    Numbers are written so that they read back bit for bit.
    """
    layer = None if venv is None else unwrap_vec_normalize(venv)
    if layer is None or not layer.norm_obs:
        return None
    held = layer.obs_rms
    statistics = {key: _described(held[key]) for key in held} if isinstance(held, dict) else _described(held)
    content = {"version": _VERSION, "epsilon": layer.epsilon, "clip_obs": layer.clip_obs, "observations": statistics}
    return json.dumps(content).encode()


def fill_normalization(layer: VecNormalize, content: bytes) -> None:
    """Give statistics to a like-built layer that normalises observations. Raises DamagedFile where they do not fit."""
    try:
        loaded = json.loads(content)
        if loaded["version"] != _VERSION:
            raise DamagedFile(
                f"statistics of format {loaded['version']} are not known to this version; update unbroken"
            )
        layer.epsilon, layer.clip_obs = float(loaded["epsilon"]), float(loaded["clip_obs"])
        if isinstance(layer.obs_rms, dict):
            for key, held in layer.obs_rms.items():
                _fill(held, loaded["observations"][key])
        else:
            _fill(layer.obs_rms, loaded["observations"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(f"the statistics of normalised observations do not fit: {error}") from error


def _described(held: RunningMeanStd) -> dict[str, Any]:
    return {"mean": held.mean.tolist(), "var": held.var.tolist(), "count": float(held.count)}


def _fill(held: RunningMeanStd, described: dict[str, Any]) -> None:
    mean, var = (np.array(described[name], dtype=np.float64) for name in ("mean", "var"))
    if mean.shape != held.mean.shape or var.shape != held.var.shape:
        raise ValueError(f"shape {mean.shape} where observations have {held.mean.shape}")
    held.mean, held.var, held.count = mean, var, float(described["count"])
