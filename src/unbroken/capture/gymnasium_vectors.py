"""Capture and restore Gymnasium's own vector environments: their wrappers, and each environment in mid-episode.

Environments in worker processes are refused: whether a copy is to be reset at its next step is a local variable of Gymnasium's
worker function, which nobody can read or set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


def make_capturable(venv: VectorEnv[Any, Any, Any]) -> None:
    """Wrap the environments inside, before their first reset. Raises UsageError for environments in worker processes."""
    base = list(layers(venv))[-1]
    if isinstance(base, AsyncVectorEnv):
        raise UsageError(
            "AsyncVectorEnv cannot be captured exactly: its worker processes keep in a local variable which copies are to be "
            "reset at their next step; use SyncVectorEnv"
        )
    if isinstance(base, SyncVectorEnv):
        base.envs = [env if find_capture_wrapper(env) else CaptureWrapper(env) for env in base.envs]


def environments(venv: VectorEnv[Any, Any, Any]) -> list[CaptureWrapper]:
    """The environments inside a SyncVectorEnv, none where the vector environment is one object that steps all copies."""
    base = list(layers(venv))[-1]
    found = [find_capture_wrapper(env) for env in base.envs] if isinstance(base, SyncVectorEnv) else []
    return [env for env in found if env is not None]


def capture(venv: VectorEnv[Any, Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """Description of a vector environment, and what in it is not captured.

    Raises CaptureError when an environment cannot be captured now, such as one whose replay would be too long.
    """
    describer = Describer()
    described = [
        {"class": class_name(layer), "attributes": describer.attributes(layer, type(layer).__name__, _SKIP)}
        for layer in layers(venv)
    ]
    inside = environments(venv)
    states = [env.capture_state() for env in inside]
    missing = [f"environment {k}: {what}" for k, env in enumerate(inside) for what in env.coverage()["not_captured"]]
    return {"layers": described, "environments": states}, [*describer.opaque, *missing]


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
