"""Capture and restore the parts of a hand-written training loop, each under the name that its author gave it.

What has `state_dict` and `load_state_dict` is captured by them, and of torch modules also what they leave out: attributes that
have changed since, buffers kept out of the state dict, training mode, frozen parameters. Environments are captured in
mid-episode, arrays, generators and containers in place, plain objects by their attributes. The generators of the process
are captured first and restored last.
"""

from __future__ import annotations

import collections
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch

from unbroken.capture import gymnasium_vectors
from unbroken.capture.codec import digest
from unbroken.capture.filling import Filler
from unbroken.capture.objects import LIBRARIES, Describer, class_name, is_pure_python
from unbroken.capture.rng import capture_generators_later, restore_generators
from unbroken.capture.state_dicts import StateDictCopies
from unbroken.errors import IncompatibleRun, UsageError

_FILLED_IN_PLACE = (np.ndarray, torch.Tensor, np.random.Generator, np.random.RandomState, random.Random)
_CONTAINERS = (list, dict, set, collections.deque, torch.Generator)
_OF_TORCH = frozenset(vars(torch.nn.Module())) | {"defaults", "state", "param_groups", "_zero_grad_profile_name"}


class Variables:
    """The loop's own variables, such as the present observation or counters: attributes that are captured and restored."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def __repr__(self) -> str:
        return f"Variables({', '.join(vars(self))})"


@dataclass(frozen=True)
class TrackedSnapshot:
    """A consistent copy: `tensors` maps names to state dicts of tensors and plain values, `state` is a description."""

    tensors: dict[str, Any]
    state: dict[str, Any]
    missing: tuple[str, ...]


class Tracked:
    """Named parts of a training. Used by the training thread."""

    def __init__(self) -> None:
        self._things: dict[str, Any] = {}
        self._given: dict[str, Any] = {}
        self._at_start: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._things

    def add(self, name: str, thing: Any) -> Any:
        """Track a thing and return it; a Gymnasium environment comes back wrapped, and must be used as it comes back.

        Raises UsageError for a name that is taken and for what can be neither filled in place nor loaded.
        """
        if name in self._things:
            raise UsageError(f"{name!r} is tracked already; give the other thing another name")
        if _is_environment(thing):
            self._given[name], thing = thing, gymnasium_vectors.wrapped(thing)
        elif _is_vector(thing):
            gymnasium_vectors.make_capturable(thing)
        elif _is_sb3_vector(thing):
            from unbroken.capture.vector_environments import make_capturable

            make_capturable(thing)
        elif not _is_trackable(thing):
            raise UsageError(_advice(name, thing))
        self._things[name] = thing
        if isinstance(thing, torch.nn.Module | torch.optim.Optimizer):
            self._at_start.update(self._digests(name, thing))
        return thing

    def environments(self) -> list[Any]:
        """Every single environment that is tracked, those inside vector environments included, as it is captured."""
        found: list[Any] = []
        for thing in self._things.values():
            if _is_environment(thing):
                found.append(thing)
            elif _is_vector(thing):
                found += gymnasium_vectors.environments(thing)
        return found

    def spaces(self) -> tuple[Any, Any]:
        """Observation and action space of the first environment that is tracked, (None, None) without one."""
        for thing in self._things.values():
            if _is_vector(thing):
                return thing.single_observation_space, thing.single_action_space
            if _is_environment(thing) or _is_sb3_vector(thing):
                return thing.observation_space, thing.action_space
        return None, None

    def shapes(self) -> dict[str, list[int]]:
        """Shape of every tensor in the state dicts of modules, and the name of everything else, to be compared on resume."""
        found: dict[str, list[int]] = {}
        for name, thing in self._things.items():
            found[name] = []
            if isinstance(thing, torch.nn.Module):
                tensors = thing.state_dict().items()
                found.update({f"{name}.{key}": list(value.shape) for key, value in tensors if hasattr(value, "shape")})
        return found

    def capture(self, copies: StateDictCopies | None = None) -> TrackedSnapshot:
        """Snapshot of everything tracked and of the process's generators; draws no random number that training would notice.

        With `copies`, its tensors are good until the next snapshot with them. They are in the CPU's memory.
        """
        generators = capture_generators_later()
        describer = Describer(known=self._known())
        loadable: dict[str, Any] = {}
        parts: dict[str, Any] = {}
        missing: list[str] = []
        for name, thing in self._things.items():
            parts[name] = self._describe(name, thing, describer, loadable, missing)
        missing += [what for what in describer.opaque if what not in missing]
        tensors = (copies or StateDictCopies()).take(loadable)
        return TrackedSnapshot(tensors, {"parts": parts, "generators": generators}, tuple(missing))

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any]) -> list[str]:
        """Bring like-built things into the captured state; returns what did not fit. Tensors may be on any device.

        Raises IncompatibleRun where other names are tracked than then, and what `load_state_dict` raises.
        """
        parts = state["parts"]
        if set(parts) != set(self._things):
            raise IncompatibleRun(f"the checkpoint holds {sorted(parts)} and the script tracks {sorted(self._things)}")
        filler = Filler(known=self._known())
        problems = []
        for name, thing in self._things.items():
            problems += self._fill(name, thing, parts[name], filler, tensors)
        problems += filler.problems
        restore_generators(state["generators"])
        return problems

    def exported(self) -> dict[str, Any]:
        """The state dicts of the modules alone: a model for use."""
        modules = {name: thing for name, thing in self._things.items() if isinstance(thing, torch.nn.Module)}
        return {name: copied(module.state_dict()) for name, module in modules.items()}

    def _known(self) -> dict[str, Any]:
        """What has a capture of its own is referred to by name where other things hold it, and not entered."""
        own = {n: t for n, t in self._things.items() if not isinstance(t, _FILLED_IN_PLACE + _CONTAINERS)}
        own = {n: t for n, t in own.items() if _has_state_dict(t) or _is_any_environment(t)}
        return {**own, **{f"{name} as given": env for name, env in self._given.items()}}

    def _describe(
        self, name: str, thing: Any, describer: Describer, loadable: dict[str, Any], missing: list[str]
    ) -> dict[str, Any]:
        if _is_any_environment(thing):
            described, gaps = _captured_environment(thing)
            missing += [f"{name}: {what}" for what in gaps]
            return {"kind": "environment", "state": described}
        if not _has_state_dict(thing):
            return {"kind": "value", "state": _describe_value(describer, thing, name)}
        held = thing.state_dict()
        part: dict[str, Any] = {"kind": "state_dict", "inner": self._describe_inner(name, thing, describer)}
        if _is_loadable(held):
            loadable[name] = thing
        else:
            part["state"] = describer.describe(held, name)
        return part

    def _fill(
        self, name: str, thing: Any, part: Mapping[str, Any], filler: Filler, tensors: Mapping[str, Any]
    ) -> list[str]:
        if part["kind"] == "environment":
            return [f"{name}: {problem}" for problem in _restored_environment(thing, part["state"])]
        if part["kind"] == "value":
            _fill_value(filler, thing, part["state"], name)
            return []
        plain_holder = getattr(thing, "_orig_mod", thing)
        plain_holder.load_state_dict(tensors[name] if name in tensors else Filler().build(part["state"]))
        self._fill_inner(name, thing, part["inner"], filler)
        return []

    def _describe_inner(self, name: str, thing: Any, describer: Describer) -> dict[str, Any]:
        """What state dicts of torch's classes leave out. Attributes as they were made are configuration."""
        found: dict[str, Any] = {}
        for place, part in _torch_parts(name, thing):
            fields = {
                key: describer.describe(value, f"{place}.{key}")
                for key, value in _attributes(part)
                if self._digest(value) != self._at_start.get(f"{place}.{key}")
            }
            found[place] = {"fields": fields, **_describe_module(part, describer)}
        return found

    def _fill_inner(self, name: str, thing: Any, inner: Mapping[str, Any], filler: Filler) -> None:
        for place, part in _torch_parts(name, thing):
            if place in inner:
                filler.fill_attributes(part, inner[place]["fields"], place)
                _fill_module(part, inner[place], filler, place)

    def _digests(self, name: str, thing: Any) -> dict[str, str]:
        return {
            f"{place}.{key}": self._digest(value)
            for place, part in _torch_parts(name, thing)
            for key, value in _attributes(part)
        }

    def _digest(self, value: Any) -> str:
        return digest(Describer(known=self._known()).describe(value))


def copied(value: Any) -> Any:
    """A copy of a nest of containers and tensors, in the CPU's memory, that later training does not change."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        made: dict[Any, Any] = collections.OrderedDict() if isinstance(value, collections.OrderedDict) else {}
        made.update((key, copied(item)) for key, item in value.items())
        return made
    return type(value)(copied(item) for item in value) if type(value) in (list, tuple) else value


def _is_environment(thing: Any) -> bool:
    return isinstance(thing, gymnasium.Env)


def _is_vector(thing: Any) -> bool:
    return isinstance(thing, gymnasium.vector.VectorEnv)


def _is_sb3_vector(thing: Any) -> bool:
    module = sys.modules.get("stable_baselines3.common.vec_env")
    return module is not None and isinstance(thing, module.VecEnv)


def _is_any_environment(thing: Any) -> bool:
    return _is_environment(thing) or _is_vector(thing) or _is_sb3_vector(thing)


def _has_state_dict(thing: Any) -> bool:
    return callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None))


def _is_trackable(thing: Any) -> bool:
    if _has_state_dict(thing) or isinstance(thing, _FILLED_IN_PLACE + _CONTAINERS):
        return True
    return not callable(thing) and hasattr(thing, "__dict__") and is_pure_python(type(thing))


def _advice(name: str, thing: Any) -> str:
    if isinstance(thing, bool | int | float | complex | str | bytes | tuple | None):
        return f"{name!r} is a {type(thing).__name__}, which cannot be restored in place: make it an attribute of ckpt.state(...)"
    return (
        f"{name!r} is a {class_name(thing)}, which cannot be captured: give it state_dict() and load_state_dict(state)"
    )


def _captured_environment(env: Any) -> tuple[Any, list[str]]:
    if _is_vector(env):
        return gymnasium_vectors.capture(env)
    if _is_sb3_vector(env):
        from unbroken.capture.vector_environments import capture_vector_environment

        return capture_vector_environment(env)
    return gymnasium_vectors.captured(env)


def _restored_environment(env: Any, state: Any) -> list[str]:
    if _is_vector(env):
        return gymnasium_vectors.restore(env, state)
    if _is_sb3_vector(env):
        from unbroken.capture.vector_environments import restore_vector_environment

        return restore_vector_environment(env, state)
    restored: list[str] = env.restore_state(state)
    return restored


def _describe_value(describer: Describer, thing: Any, name: str) -> Any:
    return describer.describe(thing, name)


def _fill_value(filler: Filler, thing: Any, description: Any, name: str) -> None:
    if filler.build(description, thing, name) is not thing:
        filler.problems.append(f"{name}: its type or shape is not that of the checkpoint")


def _is_loadable(value: Any) -> bool:
    """Whether `torch.load(weights_only=True)` reads it back as it is."""
    if type(value) in (dict, collections.OrderedDict):
        return all(type(key) in (str, int) and _is_loadable(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_loadable, value))
    return type(value) in (torch.Tensor, torch.nn.Parameter, bool, int, float, str, type(None))


def _torch_parts(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
    """The modules inside a module by their dotted places, or an optimizer itself."""
    if isinstance(thing, torch.nn.Module):
        for inner, module in thing.named_modules():
            yield f"{name}.{inner}" if inner else name, module
    elif isinstance(thing, torch.optim.Optimizer):
        yield name, thing


def _attributes(part: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of the user's own classes, without torch's, other networks and optimizers, and code."""
    if f"{type(part).__module__}.".startswith(LIBRARIES):
        return
    for name, value in vars(part).items():
        if name in _OF_TORCH or isinstance(value, torch.nn.Module | torch.optim.Optimizer) or callable(value):
            continue
        yield name, value


def _describe_module(part: Any, describer: Describer) -> dict[str, Any]:
    if not isinstance(part, torch.nn.Module):
        return {}
    fleeting = sorted(part._non_persistent_buffers_set)
    buffers = {key: describer.describe(part._buffers[key]) for key in fleeting if part._buffers.get(key) is not None}
    frozen = [key for key, value in part._parameters.items() if value is not None and not value.requires_grad]
    return {"training": part.training, "buffers": buffers, "frozen": frozen}


def _fill_module(part: Any, held: Mapping[str, Any], filler: Filler, place: str) -> None:
    if not isinstance(part, torch.nn.Module):
        return
    part.training = held["training"]
    for key, description in held["buffers"].items():
        part._buffers[key] = filler.build(description, part._buffers.get(key), f"{place}.{key}")
    for key, value in part._parameters.items():
        if value is not None:
            value.requires_grad_(key not in held["frozen"])
