"""The state of callbacks, the environments they evaluate on included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from unbroken.capture.configured import configured_names
from unbroken.capture.filling import Filler
from unbroken.capture.hidden import HiddenState
from unbroken.capture.objects import Describer, class_name
from unbroken.capture.vector_environments import capture_vector_environment, restore_vector_environment

_CALLBACK_SKIP = frozenset({"locals", "globals", "model", "parent", "logger"})


@dataclass(frozen=True)
class Callbacks:
    """The root callback of a training and the ones inside it that carry no state of the user's."""

    root: BaseCallback | None = None
    ours: tuple[BaseCallback, ...] = ()
    # a resumed training has at hand what is of those classes
    at_start: AtStart | None = None

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


@dataclass(frozen=True)
class AtStart:
    """What callbacks were when a training began: by path the class of what can be filled but not made, and shared state."""

    held: Mapping[str, str]
    hidden: HiddenState


def at_start(model: BaseAlgorithm, callbacks: Callbacks) -> AtStart:
    """To be taken before the first rollout, and before a checkpoint is restored into the callbacks."""
    described, describer = _described(model, callbacks, [])
    del described
    each = each_callback(callbacks)
    parts = {name: getattr(model, name, None) for name in ("policy", "replay_buffer", "rollout_buffer")}
    known = {**_callback_tools(model, callbacks), **parts, **{f"callback {k}": part for k, part in enumerate(each)}}
    return AtStart(describer.needing, HiddenState(each, {n: value for n, value in known.items() if value is not None}))


def each_callback(callbacks: Callbacks) -> list[BaseCallback]:
    """All callbacks but ours, those in lists and events too."""
    waiting = [callbacks.root] if callbacks.root is not None else []
    found: list[BaseCallback] = []
    while waiting:
        callback = waiting.pop()
        if callback not in callbacks.ours and callback not in found:
            found.append(callback)
            inner = vars(callback).values()
            waiting += [value for value in inner if isinstance(value, BaseCallback) and value is not callback.parent]
            waiting += [
                item for value in inner if isinstance(value, list) for item in value if isinstance(item, BaseCallback)
            ]
    return found


def capture_callbacks(model: BaseAlgorithm, callbacks: Callbacks, missing: list[str]) -> Any:
    """Description of the callbacks; what is not in it, or could not be restored from it, is added to `missing`."""
    if callbacks.root is None:
        return None
    described, describer = _described(model, callbacks, missing)
    missing += [f"callback {what}" for what in describer.opaque]
    if callbacks.at_start is not None:
        missing += [
            f"callback {path}: {cls} made during training" for path, cls in _made_since(callbacks.at_start, describer)
        ]
        missing += [f"callbacks: {place}" for place in callbacks.at_start.hidden.names()]
    return described


def _made_since(start: AtStart, describer: Describer) -> list[tuple[str, str]]:
    """What there was no like of when the training began, items of a container together."""
    made = {path: cls for path, cls in describer.needing.items() if start.held.get(path) != cls}
    return sorted({(path.partition("[")[0], cls) for path, cls in made.items()})


def _described(model: BaseAlgorithm, callbacks: Callbacks, missing: list[str]) -> tuple[Any, Describer]:
    def special(value: Any) -> Any:
        if isinstance(value, VecEnv):
            described, gaps = capture_vector_environment(value)
            missing.extend(f"evaluation environment: {gap}" for gap in gaps)
            return {"environment": described}
        if isinstance(value, BaseCallback):
            name = type(value).__name__
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
