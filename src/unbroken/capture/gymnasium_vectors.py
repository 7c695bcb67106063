"""Capture and restore Gymnasium's own vector environments: their wrappers, and each environment in mid-episode.

Environments in worker processes are refused: whether a copy is to be reset at its next step is a local variable of Gymnasium's
worker function, which nobody can read or set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper

from unbroken.capture.environments import CaptureWrapper, find_capture_wrapper
from unbroken.capture.filling import Filler
from unbroken.capture.objects import Describer, class_name
from unbroken.errors import CaptureError, UsageError

# clocks mean nothing in another process, and how an environment is made is configuration
_SKIP = frozenset(
    {"env", "envs", "env_fns", "spec", "metadata", "closed", "episode_start_times", "time_queue", "render_mode"}
)


def layers(venv: VectorEnv[Any, Any, Any]) -> Iterator[VectorEnv[Any, Any, Any]]:
    """The vector wrappers from the outside in, then the innermost vector environment."""
    while isinstance(venv, VectorWrapper):
        yield venv
        venv = venv.env
    yield venv


def wrapped(env: gymnasium.Env[Any, Any]) -> CaptureWrapper:
    """An environment under a CaptureWrapper. Raises UsageError where one is inside another wrapper, which it would not capture."""
    if isinstance(env, CaptureWrapper):
        return env
    if find_capture_wrapper(env) is not None:
        raise UsageError("CaptureWrapper captures what is inside it: make it the outermost wrapper, or leave it out")
    return CaptureWrapper(env)


def captured(env: CaptureWrapper, what: str = "") -> tuple[dict[str, Any], list[str]]:
    """The state of one environment and its gaps; `what` is put before them."""
    state = env.capture_state()
    gaps = list(env.coverage()["not_captured"])
    if not state["begun"]:
        gaps.append("its state (reset and step what track() returned, after track() and not before)")
    return state, [f"{what}{gap}" for gap in gaps]


def make_capturable(venv: VectorEnv[Any, Any, Any]) -> None:
    """Wrap the environments inside, before their first reset. Raises UsageError for environments in worker processes."""
    base = list(layers(venv))[-1]
    if isinstance(base, AsyncVectorEnv):
        raise UsageError(
            "AsyncVectorEnv cannot be captured exactly: its worker processes keep in a local variable which copies are to be "
            "reset at their next step; use SyncVectorEnv"
        )
    if isinstance(base, SyncVectorEnv):
        base.envs = [wrapped(env) for env in base.envs]


def environments(venv: VectorEnv[Any, Any, Any]) -> list[CaptureWrapper]:
    """The environments inside a SyncVectorEnv, none where the vector environment is one object that steps all copies."""
    base = list(layers(venv))[-1]
    return [env for env in base.envs if isinstance(env, CaptureWrapper)] if isinstance(base, SyncVectorEnv) else []


def capture(venv: VectorEnv[Any, Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """Description of a vector environment, and what in it is not captured.

    Raises CaptureError when an environment cannot be captured now, such as one whose replay would be too long.
    """
    describer = Describer()
    described = [
        {"class": class_name(layer), "attributes": describer.attributes(layer, type(layer).__name__, _SKIP)}
        for layer in layers(venv)
    ]
    missing = list(describer.opaque)
    states = []
    for k, env in enumerate(environments(venv)):
        state, gaps = captured(env, f"environment {k}: ")
        states.append(state)
        missing += gaps
    return {"layers": described, "environments": states}, missing


def restore(venv: VectorEnv[Any, Any, Any], state: dict[str, Any]) -> list[str]:
    """Bring a like-built vector environment into the described state; returns what did not fit.

    Raises CaptureError where an environment cannot take its state, or wrappers or the number of copies differ.
    """
    stack, inside = list(layers(venv)), environments(venv)
    if [class_name(layer) for layer in stack] != [entry["class"] for entry in state["layers"]]:
        raise CaptureError("the vector environment's wrappers are not those of the checkpoint")
    if len(inside) != len(state["environments"]):
        raise CaptureError(f"the checkpoint has {len(state['environments'])} environments and this one {len(inside)}")
    problems = [
        problem
        for env, described in zip(inside, state["environments"], strict=True)
        for problem in env.restore_state(described)
    ]
    filler = Filler()
    for layer, entry in zip(stack, state["layers"], strict=True):
        filler.fill_attributes(layer, entry["attributes"], type(layer).__name__)
    return problems + filler.problems
