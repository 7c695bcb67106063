"""Every bit of a live Stable-Baselines3 training as a flat table, path -> text; it knows nothing of unbroken.

The same code reads the plain reference and the resumed training, so equal tables mean equal trainings. What is left out
is named here: wall-clock values, wiring between objects, and the two counters that SB3 keeps only to compute time/fps.
"""

import collections
import hashlib
import random
import sys
import types

import numpy as np

WALL_CLOCK_LOGS = ("time/fps", "time/time_elapsed")
_MODEL_SKIP = {
    "env", "_vec_normalize_env",  # walked by themselves
    "_logger",  # its pending values are read by themselves
    "start_time", "_num_timesteps_at_start",  # only for time/fps
    "_unbroken",  # the resumed side's own bookkeeping
}  # fmt: skip
_VECTOR_SKIP = {
    "venv",
    "envs",
    "remotes",
    "work_remotes",
    "processes",
    "waiting",
    "closed",
    "class_attributes",
    "metadata",
}
_CALLBACK_SKIP = {"model", "locals", "globals", "parent", "logger"}
_MONITOR = ("rewards", "needs_reset", "episode_returns", "episode_lengths", "total_steps", "current_reset_info")
_CODE = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type, np.dtype)


def flat(value, path="", skip=()):
    """The leaves of a nest of values by path; `skip` names keys of the outermost mapping."""
    found = {}
    outermost = {k: v for k, v in value.items() if k not in skip} if skip else value
    _walk(outermost, path, found, ())
    return found


def model_state(model, callbacks=()):
    """The whole state of a training: model, buffers, optimizers, generators, environments, logger, callbacks."""
    import torch

    found = flat(
        {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}, "generators"
    )
    found.update(flat(vars(model), "model", _MODEL_SKIP))
    pending = {
        name: dict(getattr(model.logger, name)) for name in ("name_to_value", "name_to_count", "name_to_excluded")
    }
    for values in pending.values():
        for name in WALL_CLOCK_LOGS:
            values.pop(name, None)
    found.update(flat(pending, "logger"))
    found.update(vector_state(model.env, "environment"))
    for callback in callbacks:
        if type(callback).__module__ == "matrix_callbacks":
            found.update(flat(vars(callback), f"callback {type(callback).__name__}", _CALLBACK_SKIP))
        if hasattr(callback, "eval_env"):
            found.update(vector_state(callback.eval_env, "evaluation environment"))
    return {name: leaf for name, leaf in found.items() if not _drawn_by_nature_cnn(name, model)}


def _drawn_by_nature_cnn(name, model):
    """SB3's NatureCNN draws one observation, to see its size, from a space that nobody seeds: plain SB3 differs from itself."""
    images = getattr(model.policy, "features_extractor_class", object).__name__ == "NatureCNN"
    return images and "observation_space" in name and "._np_random" in name


def vector_state(venv, path):
    """Every vector wrapper, and every copy's Monitor, wrappers and base environment, in this process or in a worker."""
    found = {}
    while venv is not None:
        found.update(flat(vars(venv), f"{path} {type(venv).__name__}", _VECTOR_SKIP))
        base, venv = venv, getattr(venv, "venv", None)
    for name in _MONITOR:
        found.update(flat(dict(enumerate(base.get_attr(name))), f"{path} Monitor.{name}"))
    for k, report in enumerate(base.env_method("report")):
        found.update({f"{path} copy {k} {name}": leaf for name, leaf in report.items()})
    return found


def _walk(value, path, found, above):
    if any(value is other for other in above):
        found[path] = "(cycle)"
        return
    above = (*above, value)
    kind = type(value).__name__
    children = None
    if value is None or isinstance(value, bool | int | str | bytes):
        found[path] = f"{kind} {value!r}"
    elif isinstance(value, float) and not isinstance(value, np.generic):
        found[path] = f"float {value.hex()} ({value!r})"
    elif isinstance(value, np.ndarray | np.generic):
        _walk_array(value, path, found, above)
    elif isinstance(value, dict):
        # Monitor's `t` is the wall clock
        skip = {"t"} if {"r", "l", "t"} <= value.keys() else ()
        children = {repr(key): item for key, item in value.items() if key not in skip}
    elif isinstance(value, list | tuple | collections.deque):
        children = {"length": len(value), **{str(k): item for k, item in enumerate(value)}}
    elif isinstance(value, np.random.Generator):
        children = {"state": value.bit_generator.state}
    elif isinstance(value, _CODE):
        found[path] = f"code {getattr(value, '__name__', kind)}"
    elif not _walk_torch(value, path, found, above):
        attributes = getattr(value, "__dict__", None)
        if attributes is None:
            found[path] = f"opaque {kind}"
        else:
            # a Box keeps the text of its bounds from the first time it is printed
            # and HER's buffer refers to the environment, which is walked by itself
            left = ("low_repr", "high_repr", *(("env",) if kind == "HerReplayBuffer" else ()))
            children = {"class": kind, **{k: v for k, v in attributes.items() if k not in left}}
    for name, child in (children or {}).items():
        _walk(child, f"{path}.{name}", found, above)


def _walk_array(value, path, found, above):
    array = np.asarray(value)
    if array.dtype.hasobject:
        _walk(array.tolist(), path, found, above)
        return
    text = " ".join(str(item) for item in array.reshape(-1)[:4])
    found[path] = f"{type(value).__name__} {array.dtype} {array.shape} {_digest(array)} [{text} ...]"


def _walk_torch(value, path, found, above):
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    if isinstance(value, torch.Tensor):
        array = value.detach().cpu().contiguous().numpy()
        _walk_array(array, f"{path}:{value.dtype}", found, above)
    elif isinstance(value, torch.optim.Optimizer):
        _walk(value.state_dict(), f"{path}.optimizer", found, above)
    elif isinstance(value, torch.nn.Module):
        _walk_module(value, path, found, above)
    elif isinstance(value, torch.device | torch.dtype):
        found[path] = str(value)
    else:
        return False
    return True


def _walk_module(module, path, found, above):
    """Parameters and buffers, and for every module inside: mode, optimizers, and what a distribution keeps (gSDE)."""
    _walk(dict(module.state_dict()), f"{path}.tensors", found, above)
    for name, inner in module.named_modules():
        where = f"{path}.{name}" if name else path
        found[f"{where}.training"] = str(inner.training)
        for key, item in vars(inner).items():
            if isinstance(item, _torch().optim.Optimizer):
                _walk(item.state_dict(), f"{where}.{key}", found, above)
            elif key == "action_dist":
                _walk(vars(item), f"{where}.{key}", found, (*above, item))


def _torch():
    return sys.modules["torch"]


def _digest(array):
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=12).hexdigest()
