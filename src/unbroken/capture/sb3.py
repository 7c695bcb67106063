"""The whole state of a Stable-Baselines3 or sb3-contrib training at a cut.

Cuts are the top of `learn()`'s loop ("rollout": inside `on_rollout_start`) and the return of `learn()` ("end").
What the constructor is given belongs to the configuration and is not restored; everything else is state.
Tensors live once, in the members that plain `X.load()` reads; the rest is a description (see `objects`).
"""

from __future__ import annotations

import collections
import copy
import functools
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3 import __version__ as sb3_version
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.save_util import data_to_json, recursive_getattr
from stable_baselines3.common.utils import get_system_info
from stable_baselines3.common.vec_env import VecEnv

from unbroken import logs
from unbroken.capture.buffers import (
    Pieces,
    capture_replay_buffer,
    capture_rollout_buffer,
    restore_replay_buffer,
    restore_rollout_buffer,
)
from unbroken.capture.callables import capture_callables, restore_callables
from unbroken.capture.callbacks import Callbacks, capture_callbacks, restore_callbacks
from unbroken.capture.configured import configured_names
from unbroken.capture.construction import MODEL_SKIP, Construction, capture_changed, restore_changed
from unbroken.capture.filling import Filler
from unbroken.capture.modules import SteadyModules, restore_modules
from unbroken.capture.objects import Describer
from unbroken.capture.replay_rows import RowCounter, Rows
from unbroken.capture.rng import capture_generators_later, restore_generators
from unbroken.capture.state_dicts import StateDictCopies, cloned, tensor_bytes
from unbroken.capture.training_parts import describer_for, digest_of, filler_for
from unbroken.capture.unchanged import Digests
from unbroken.capture.vector_environments import capture_vector_environment, restore_vector_environment
from unbroken.errors import IncompatibleRun

Cut = Literal["rollout", "end"]

_OF_THE_ENVIRONMENT = ("_last_obs", "_last_original_obs", "_last_episode_starts")
_PLAIN = frozenset({bool, int, float, str, type(None)})
_EXPLORATION = ("exploration_mat", "exploration_matrices")


class SnapshotMemory:
    """What one snapshot of a training leaves to the next, so that the next costs less. Not thread safe.

    Tensors are copied into the memory of the snapshot before, which must not be in use any more. `counter` knows the rows of the
    replay buffer that are safe; without it, snapshots hold them all.
    """

    def __init__(self, model: BaseAlgorithm, counter: RowCounter | None = None) -> None:
        self.model = model
        self.counter = counter
        self.copies = StateDictCopies()
        self.modules = SteadyModules()
        self.digests = Digests(lambda value: digest_of(model, value))


@dataclass(frozen=True)
class ModelSnapshot:
    """A consistent copy of a training at a cut; later training does not change it.

    `tensors` maps names of SB3's own members to state dicts, `state` is a description, `export` what plain SB3 loads, `rows`
    the new rows of a replay buffer when they were counted.
    """

    cut: Cut
    step: int
    tensors: dict[str, Any]
    variables: dict[str, Any]
    state: dict[str, Any]
    export: dict[str, Any]
    missing: tuple[str, ...] = field(default=())
    rows: Rows | None = None

    def sb3_members(self) -> list[tuple[str, bytes]]:
        """The members of an ordinary SB3 zip, serialised. May run in another thread than the training's."""
        members = [("data", _export_json(self.export).encode())]
        members.append(("pytorch_variables.pth", tensor_bytes(self.variables)))
        members += [(f"{name}.pth", tensor_bytes(state_dict)) for name, state_dict in self.tensors.items()]
        members.append(("_stable_baselines3_version", sb3_version.encode()))
        members.append(("system_info.txt", get_system_info(print_info=False)[1].encode()))
        return members


def capture_model(
    model: BaseAlgorithm, cut: Cut, callbacks: Callbacks, iteration: int = 0, memory: SnapshotMemory | None = None
) -> ModelSnapshot:
    """Snapshot of model, environments, callbacks, logger and generators. Draws no random number that training would notice.

    With a memory, the snapshot is good until the next one with it.
    """
    generators = capture_generators_later()
    memory = memory if memory is not None and memory.model is model else SnapshotMemory(model)
    unchanged = model.policy if memory.modules.look(model) else None
    built = _construction(model)
    callables, modules = (None, None) if built is None else (built.callables, built.modules)
    missing: list[str] = []
    tensors, variables = _copied_tensors(model, memory.copies, unchanged)
    replay_buffer, rows = capture_replay_buffer(model, missing, memory.counter)
    state = {
        "cut": cut,
        "iteration": iteration,
        "model": _capture_attributes(model, missing, memory.modules),
        "changed": capture_changed(model, built, missing, memory.digests),
        "callables": capture_callables(model, callables, missing, memory.digests),
        "modules": memory.modules.captured(model, modules, missing),
        "exploration": _capture_exploration(model),
        "replay_buffer": replay_buffer,
        "rollout_buffer": capture_rollout_buffer(model, missing),
        "environment": _capture_environment(model.env, missing),
        "callbacks": capture_callbacks(model, callbacks, missing),
        "logger": _capture_logger(model, missing),
        "generators": generators,
    }
    return ModelSnapshot(cut, model.num_timesteps, tensors, variables, state, _exported(model), tuple(missing), rows)


def export_members(model: BaseAlgorithm) -> list[tuple[str, bytes]]:
    """The members of an ordinary SB3 zip of the model as it is now: for use, without the state of the training."""
    tensors, variables = _copied_tensors(model, StateDictCopies())
    return ModelSnapshot("end", model.num_timesteps, tensors, variables, {}, _exported(model)).sb3_members()


def restore_model(
    model: BaseAlgorithm,
    state: dict[str, Any],
    tensors: dict[str, Any],
    variables: dict[str, Any],
    callbacks: Callbacks,
    pieces: Pieces = (),
) -> list[str]:
    """Bring a like-built training into the captured state; returns what did not fit. `pieces` are rows kept apart from it.

    For a "rollout" cut, call once before `learn()` and once in the first `on_rollout_start`, which comes after SB3's own
    noise and buffer resets; for an "end" cut, once before `learn()`. Tensors may be on any device.
    """
    problems: list[str] = []
    _restore_tensors(model, tensors, variables)
    _vectorize_noise(model)
    if model.env is not None and state["environment"] is not None:
        problems += restore_vector_environment(model.env, state["environment"])
    captured = state["environment"] is None or state["environment"]["environments"] is not None
    # environments that were not captured begin anew, with a reset of their own: the stored observation is not theirs
    left = () if captured else _OF_THE_ENVIRONMENT
    filler = filler_for(model)
    filler.fill_attributes(model, {n: field for n, field in state["model"].items() if n not in left}, "model")
    problems += filler.problems
    problems += restore_changed(model, state["changed"])
    problems += restore_callables(model, state.get("callables") or {})
    problems += restore_modules(model, state["modules"])
    _restore_exploration(model, state["exploration"])
    restore_replay_buffer(model, state["replay_buffer"], pieces, problems)
    problems += restore_rollout_buffer(model, state.get("rollout_buffer") or {})
    problems += restore_callbacks(model, callbacks, state["callbacks"])
    _restore_logger(model, state["logger"], problems)
    restore_generators(state["generators"])
    return problems


def _vectorize_noise(model: BaseAlgorithm) -> None:
    """Give every copy of the environment its own noise, as the first `learn()` does: states to restore have theirs."""
    noise = getattr(model, "action_noise", None)
    if noise is not None and model.n_envs > 1 and not isinstance(noise, VectorizedActionNoise):
        model.action_noise = VectorizedActionNoise(noise, model.n_envs)


def _export_json(export: dict[str, Any]) -> str:
    """SB3's `data` member. It is for plain `X.load` only: what cannot be pickled is left out rather than costing the checkpoint."""
    try:
        return str(data_to_json(export))
    except Exception:  # noqa: BLE001 - pickling runs the user's code
        kept = {name: value for name, value in export.items() if _can_be_exported(name, value)}
        _say_left_out(", ".join(sorted(export.keys() - kept.keys())))
        return str(data_to_json(kept))


@functools.cache
def _say_left_out(names: str) -> None:
    """Once a process: every checkpoint of a training leaves out the same."""
    logs.warn_checkpoint(f"cannot be pickled, so SB3's own load() of a checkpoint will lack it: {names}")


def _can_be_exported(name: str, value: Any) -> bool:
    try:
        data_to_json({name: value})
    except Exception:  # noqa: BLE001 - as above
        return False
    return True


def _copied_tensors(
    model: BaseAlgorithm, copies: StateDictCopies, unchanged: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dicts and single tensors that SB3 saves, by name."""
    names, variable_names = model._get_torch_save_params()
    found = copies.take({name: recursive_getattr(model, name) for name in [*names, *(variable_names or [])]}, unchanged)
    variables = {name: found.pop(name) for name in variable_names or []}
    return found, variables


def _capture_attributes(model: BaseAlgorithm, missing: list[str], modules: SteadyModules) -> dict[str, Any]:
    _, variable_names = model._get_torch_save_params()
    skip = configured_names(type(model)) | MODEL_SKIP | set(variable_names or ())
    in_tensors = modules.inside(model)
    describer = describer_for(model)
    described = {
        name: describer.describe(value, name)
        for name, value in vars(model).items()
        if name not in skip and id(value) not in in_tensors and _may_be_state(value)
    }
    missing += [f"model.{what}" for what in describer.opaque]
    return described


def _may_be_state(value: Any) -> bool:
    """Callables have a capture of their own; networks and optimizers that SB3 does not save are state like the rest."""
    return isinstance(value, ActionNoise | torch.nn.Module | torch.optim.Optimizer) or not callable(value)


def _construction(model: BaseAlgorithm) -> Construction | None:
    continuation = getattr(model, "_unbroken", None)
    return None if continuation is None else continuation.construction


def _capture_exploration(model: BaseAlgorithm) -> dict[str, Any]:
    describer = Describer()
    found = {}
    for owner, distribution in _distributions(model):
        for name in _EXPLORATION:
            if hasattr(distribution, name):
                found[f"{owner}.{name}"] = describer.describe(getattr(distribution, name))
    return found


def _restore_exploration(model: BaseAlgorithm, described: dict[str, Any]) -> None:
    filler = Filler()
    for owner, distribution in _distributions(model):
        for name in _EXPLORATION:
            if f"{owner}.{name}" in described:
                live = getattr(distribution, name, None)
                setattr(distribution, name, filler.build(described[f"{owner}.{name}"], live))


def _distributions(model: BaseAlgorithm) -> list[tuple[str, Any]]:
    owners: dict[str, Any] = {"policy": model.policy, "actor": getattr(model, "actor", None)}
    return [
        (name, owner.action_dist) for name, owner in owners.items() if getattr(owner, "action_dist", None) is not None
    ]


def _capture_environment(venv: VecEnv | None, missing: list[str]) -> dict[str, Any] | None:
    if venv is None:
        return None
    described, gaps = capture_vector_environment(venv)
    missing += gaps
    return described


_LOGGER_FIELDS = ("name_to_value", "name_to_count", "name_to_excluded")


def _capture_logger(model: BaseAlgorithm, missing: list[str]) -> dict[str, Any] | None:
    logger = getattr(model, "_logger", None)
    if logger is None:
        return None
    describer = Describer()
    described = {name: describer.describe(getattr(logger, name), name) for name in _LOGGER_FIELDS}
    missing += [f"logger.{what}" for what in describer.opaque]
    return described


def _restore_logger(model: BaseAlgorithm, described: dict[str, Any] | None, problems: list[str]) -> None:
    logger = getattr(model, "_logger", None)
    if logger is not None and described is not None:
        filler = Filler()
        filler.fill_attributes(logger, described, "logger")
        problems += filler.problems


def _restore_tensors(model: BaseAlgorithm, tensors: dict[str, Any], variables: dict[str, Any]) -> None:
    names, _ = model._get_torch_save_params()
    if set(names) != set(tensors):
        raise IncompatibleRun(f"the checkpoint holds {sorted(tensors)} and this algorithm needs {sorted(names)}")
    for name, state_dict in tensors.items():
        holder = recursive_getattr(model, name)
        getattr(holder, "_orig_mod", holder).load_state_dict(state_dict)
    for name, value in variables.items():
        if value is not None:
            recursive_getattr(model, name).data.copy_(value)


def _exported(model: BaseAlgorithm) -> dict[str, Any]:
    """What SB3's own `save` would pickle into `data`, with everything that training changes copied."""
    names, variable_names = model._get_torch_save_params()
    exclude = set(model._excluded_save_params()) | {name.split(".")[0] for name in [*names, *(variable_names or [])]}
    return {name: _detached(value) for name, value in vars(model).items() if name not in exclude}


def _detached(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, collections.deque):
        return copy.copy(value)
    if isinstance(value, ActionNoise):
        return copy.deepcopy(value)
    if isinstance(value, dict | tuple | list):
        return cloned(value)
    return value


def describe_schema(model: BaseAlgorithm) -> dict[str, Any]:
    """Shapes that must agree between a checkpoint and a run, as readable text."""
    return {
        "observation_shape": space_shape(model.observation_space),
        "action_shape": space_shape(model.action_space),
        "observation_space": str(model.observation_space),
        "action_space": str(model.action_space),
        "policy_architecture": {name: list(value.shape) for name, value in model.policy.state_dict().items()},
        "algorithm": type(model).__name__,
    }


def mean_episode_reward(model: BaseAlgorithm) -> float | None:
    """Moving average of training episodes' rewards, None before the first has ended."""
    episodes = model.ep_info_buffer
    return float(np.mean([episode["r"] for episode in episodes])) if episodes else None


def space_shape(space: Any) -> Any:
    """Shape of a space as plain data; for a composite one its parts by name or in order."""
    inner = getattr(space, "spaces", None)
    if isinstance(inner, dict):
        return {str(key): space_shape(part) for key, part in inner.items()}
    if inner is not None:
        return [space_shape(part) for part in inner]
    return list(space.shape or ())


def finished_episodes(model: BaseAlgorithm) -> int:
    """Episodes finished so far over all environments, as Monitor counts them; else as far as the model does."""
    # asked for what it does not have, a worker process ends, and the training with it
    try:
        monitored = model.env is not None and all(model.env.env_is_wrapped(Monitor))
    except (AttributeError, NotImplementedError):
        monitored = False
    if model.env is None or not monitored:
        return model._episode_num
    counted: list[list[int]] = model.env.env_method("get_episode_lengths")
    return sum(map(len, counted))
