"""Capture and restore Stable-Baselines3 vector environments: wrappers, per-environment state, workers in other processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper

from unbroken.capture.environments import CaptureWrapper, find_capture_wrapper
from unbroken.capture.filling import Filler
from unbroken.capture.objects import Describer, class_name
from unbroken.errors import CaptureError

_SKIP = frozenset(
    {
        "venv",
        "envs",
        "remotes",
        "work_remotes",
        "processes",
        "waiting",
        "closed",
        "class_attributes",
        "metadata",
        "results_writer",
    }
)


def vector_layers(venv: VecEnv) -> Iterator[VecEnv]:
    """The vector wrappers from the outside in, then the innermost vector environment."""
    while isinstance(venv, VecEnvWrapper):
        yield venv
        venv = venv.venv
    yield venv


def make_capturable(venv: VecEnv) -> None:
    """Wrap the environments of an in-process vector environment that are not wrapped yet, before their first reset."""
    base = list(vector_layers(venv))[-1]
    if isinstance(base, DummyVecEnv):
        base.envs = [env if find_capture_wrapper(env) else CaptureWrapper(env) for env in base.envs]


def capture_vector_environment(venv: VecEnv) -> tuple[dict[str, Any], list[str]]:
    """Description of a vector environment, and what in it is never captured.

    Raises CaptureError when an environment cannot be captured now, such as one whose replay would be too long.
    """
    describer = Describer()
    stack = list(vector_layers(venv))
    described = [
        {"class": class_name(layer), "attributes": describer.attributes(layer, type(layer).__name__, _SKIP)}
        for layer in stack
    ]
    missing = list(describer.opaque)
    states: list[Any] | None = None
    if can_capture_workers(stack[-1]):
        answers = stack[-1].env_method("try_capture")
        for k, answer in enumerate(answers):
            if "error" in answer:
                raise CaptureError(f"environment {k}: {answer['error']}")
        states = [answer["state"] for answer in answers]
        missing += [f"environment {k}: {what}" for k, answer in enumerate(answers) for what in answer["not_captured"]]
    else:
        missing.append(f"the environments inside {class_name(stack[-1])} (wrap each with unbroken.sb3.CaptureWrapper)")
    return {"layers": described, "environments": states}, missing


def restore_vector_environment(venv: VecEnv, state: dict[str, Any]) -> list[str]:
    """Bring a like-built vector environment into the described state; returns what did not fit.

    Where an environment cannot take its state, `state["environments"]` becomes None: the caller lets them all begin
    anew. Raises CaptureError when the wrappers or the number of environments differ.
    """
    stack = list(vector_layers(venv))
    if [class_name(layer) for layer in stack] != [entry["class"] for entry in state["layers"]]:
        raise CaptureError("the vector environment's wrappers are not those of the checkpoint")
    problems = _restore_environments(stack[-1], state)
    filler = Filler()
    for layer, entry in zip(stack, state["layers"], strict=True):
        filler.fill_attributes(layer, entry["attributes"], type(layer).__name__)
    if isinstance(stack[-1], SubprocVecEnv):
        _remind_workers(stack[-1])
    return problems + filler.problems


def _remind_workers(base: SubprocVecEnv) -> None:
    """A worker sends the info of its last reset with every step, from a local variable of its loop."""

    def asked(remote: Any, *question: Any) -> Any:
        remote.send(question)
        return remote.recv()

    for remote, info in zip(base.remotes, base.reset_infos, strict=True):
        # another wrapper around ours would take the reset for a real one
        if info and asked(remote, "get_attr", "__module__") == CaptureWrapper.__module__:
            asked(remote, "env_method", ("remind_of_reset", (info,), {}))
            asked(remote, "reset", (None, None))


def _restore_environments(base: VecEnv, state: dict[str, Any]) -> list[str]:
    states = state["environments"]
    if states is None:
        return []
    if len(states) != base.num_envs:
        raise CaptureError(f"the checkpoint has {len(states)} environments and this run {base.num_envs}")
    answers = [base.env_method("try_restore", environment, indices=k)[0] for k, environment in enumerate(states)]
    errors = [f"environment {k}: {answer['error']}" for k, answer in enumerate(answers) if "error" in answer]
    if errors:
        state["environments"] = None
        return [f"{error}; all environments begin a new episode" for error in errors]
    return [problem for answer in answers for problem in answer["problems"]]


def can_capture_workers(base: VecEnv) -> bool:
    """Whether every environment has a CaptureWrapper, in this process or in a worker."""
    if isinstance(base, DummyVecEnv | SubprocVecEnv):
        return all(base.env_is_wrapped(CaptureWrapper))
    return False


def coverage(venv: VecEnv) -> list[dict[str, Any]]:
    """Strategy and gaps of each environment; empty where the environments cannot be reached."""
    base = list(vector_layers(venv))[-1]
    return list(base.env_method("coverage")) if can_capture_workers(base) else []
