"""The state of callbacks, the environments they evaluate on included."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from unbroken.capture.callables import assigned_globals
from unbroken.capture.configured import configured_names
from unbroken.capture.filling import Filler
from unbroken.capture.objects import LIBRARIES, Describer, class_name
from unbroken.capture.vector_environments import capture_vector_environment, restore_vector_environment

_CALLBACK_SKIP = frozenset({"locals", "globals", "model", "parent", "logger"})


@dataclass(frozen=True)
class Callbacks:
    """The root callback of a training and the ones inside it that carry no state of the user's."""

    root: BaseCallback | None = None
    ours: tuple[BaseCallback, ...] = ()
    # what they held when the training began, see `held_by`: a resumed training has at hand what is of those classes
    at_start: Mapping[str, str] | None = None

    def names(self) -> dict[str, Any]:
        """Our own callbacks, to be referred to and not entered."""
        return {f"keeper {k}": callback for k, callback in enumerate(self.ours)}


def _callback_tools(model: BaseAlgorithm, callbacks: Callbacks) -> dict[str, Any]:
    return {
        "model": model,
        "training environment": model.env,
        "logger": getattr(model, "_logger", None),
        **callbacks.names(),
    }


def held_by(model: BaseAlgorithm, callbacks: Callbacks) -> dict[str, str]:
    """By path, the class of what callbacks hold that can be filled on resume but not made."""
    return _described(model, callbacks, [])[1].needing


def capture_callbacks(model: BaseAlgorithm, callbacks: Callbacks, missing: list[str]) -> Any:
    """Description of the callbacks; what is not in it, or could not be restored from it, is added to `missing`."""
    if callbacks.root is None:
        return None
    described, describer = _described(model, callbacks, missing)
    missing += [f"callback {what}" for what in describer.opaque]
    if callbacks.at_start is not None:
        made = [path for path, cls in describer.needing.items() if callbacks.at_start.get(path) != cls]
        missing += [f"callback {path}: {describer.needing[path]} made during training" for path in made]
    return described


def _described(model: BaseAlgorithm, callbacks: Callbacks, missing: list[str]) -> tuple[Any, Describer]:
    def special(value: Any) -> Any:
        if isinstance(value, VecEnv):
            described, gaps = capture_vector_environment(value)
            missing.extend(f"evaluation environment: {gap}" for gap in gaps)
            return {"environment": described}
        if isinstance(value, BaseCallback):
            name = type(value).__name__
            missing.extend(f"callback {name}: assigns the global {what}" for what in _globals_of(type(value)))
            skip = _CALLBACK_SKIP | _configuration_of(value)
            return {"callback": describer.attributes(value, name, skip), "class": class_name(value)}
        return None

    describer = Describer(known=_callback_tools(model, callbacks), special=special)
    return describer.describe(callbacks.root, "callbacks"), describer


def restore_callbacks(model: BaseAlgorithm, callbacks: Callbacks, described: Any) -> list[str]:
    """Bring like-built callbacks into the described state; returns what did not fit."""
    if callbacks.root is None or described is None:
        return []
    problems: list[str] = []

    def special(live: Any, inner: dict[str, Any]) -> Any:
        if "environment" in inner and isinstance(live, VecEnv):
            problems.extend(restore_vector_environment(live, inner["environment"]))
        elif "callback" in inner and isinstance(live, BaseCallback):
            fields = inner["callback"]
            if inner["class"] != class_name(live):
                if not (inner["class"].startswith("unbroken.") and class_name(live).startswith("unbroken.")):
                    problems.append(f"a callback is {class_name(live)} and was {inner['class']}: it starts anew")
                    return live
                # evaluation was switched on or off: the best score is what both kinds have in common
                fields = {name: field for name, field in fields.items() if name in vars(live)}
            filler.fill_attributes(live, fields, type(live).__name__)
        else:
            problems.append("the callbacks are not those of the checkpoint")
        return live

    filler = Filler(known=_callback_tools(model, callbacks), special=special)
    filler.build(described, callbacks.root, "callbacks")
    return problems + filler.problems


@functools.cache
def _globals_of(cls: type[BaseCallback]) -> tuple[str, ...]:
    """Module globals that methods of a user's callback assign: state in a place where nothing captures it."""
    own = [base for base in cls.__mro__ if not base.__module__.startswith((*LIBRARIES, "builtins", "abc"))]
    codes = [getattr(value, "__code__", None) for base in own for value in vars(base).values()]
    return tuple(sorted(frozenset().union(*(assigned_globals(code) for code in codes if code is not None))))


def _configuration_of(callback: BaseCallback) -> frozenset[str]:
    """Attributes that belong to the configuration, so that a changed one wins: of our own callbacks what they name, of
    SB3's the plain constructor values, such as an evaluation interval. A user's callback may keep state under such a
    name, so everything in it is state.
    """
    named: frozenset[str] = getattr(callback, "CONFIGURED", frozenset())
    if not type(callback).__module__.startswith(("stable_baselines3.", "sb3_contrib.")):
        return named
    values = vars(callback)
    plain = {n for n in configured_names(type(callback)) if isinstance(values.get(n), bool | int | float | str | None)}
    return named | plain
