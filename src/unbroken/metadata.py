"""`training_metadata.json`: what a run is, how far, how good, on which machines. Users' scripts read its keys."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Mapping
from typing import Any

from unbroken.store.repository import CheckpointRecord


def leg_entry(number: int, started: float, from_step: int, to_step: int) -> dict[str, Any]:
    """One process on one machine: `started` in seconds since 1970, steps in environment steps.

    `id` is the same in all entries of a leg and in no other's: two machines may carry a run on in the same second.
    """
    own = f"{platform.node()} {os.getpid()} {started!r}".encode("utf-8", "surrogateescape")
    return {
        "leg": number,
        "id": hashlib.blake2b(own, digest_size=8).hexdigest(),
        "machine": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "from_step": from_step,
        "to_step": to_step,
    }


def metadata_content(record: CheckpointRecord, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The document after a checkpoint has been committed."""
    config, schema, best = facts["config"], facts["schema"], facts.get("best_model") or {}
    return {
        "timestamp": facts["timestamp"],
        "total_timesteps_completed": record.step,
        "mean_reward": facts["mean_reward"],
        "observation_space_shape": schema["observation_shape"],
        "action_space_shape": schema["action_shape"],
        "policy_architecture": schema["policy_architecture"],
        "run": facts["run"],
        "scenario": facts["scenario"],
        "algorithm": facts["algorithm"],
        "environment": config["target"],
        "n_envs": config["environment"]["n_envs"],
        "hyperparameters": config["hyperparameters"],
        "seed": config["seed"],
        "target_timesteps": config["total_timesteps"],
        "target_reached": record.kind == "end" and record.step >= config["total_timesteps"],
        "best_score": best.get("score"),
        "best_step": best.get("step"),
        "latest_checkpoint": record.path,
        "parent_checkpoint": facts.get("parent"),
        "legs": facts["legs"],
        "versions": facts["context"]["versions"],
        "context": facts["context"],
        "environment_capture": facts["environment_capture"],
        "not_captured": facts.get("missing", []),
        "lineage": facts["lineage"],
    }
