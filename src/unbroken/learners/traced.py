"""What a Stable-Baselines3 training writes into the process's trace (`unbroken.tracing`); nothing when there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.vec_env import VecEnv

from unbroken import tracing
from unbroken.capture.callbacks import each_callback
from unbroken.capture.codec import settled
from unbroken.capture.comparison import WALL_CLOCK
from unbroken.capture.environments import layers
from unbroken.keeper import reason_of
from unbroken.tracing import Owners, Trace

if TYPE_CHECKING:
    from unbroken.capture.sb3 import Cut
    from unbroken.learners.sb3 import KeeperCallback

_LIMIT_REACHED = "the trace's limit of steps is reached"
# what collect_rollouts calls them, and what they are
_STEP_VALUES = {"actions": "action", "new_obs": "observation", "rewards": "reward", "dones": "done"}


class _LogFormat(KVWriter):
    """Sends what SB3's logger dumps to the trace."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Trace one row."""
        del key_excluded
        self._trace.logged(step, {key: key_values[key] for key in sorted(key_values.keys() - WALL_CLOCK)})

    def close(self) -> None:
        """The trace belongs to the process."""


def began(callback: KeeperCallback) -> None:
    """`learn()` begins."""
    trace = tracing.current()
    if trace is None:
        return
    model = callback.model
    continuation = getattr(model, "_unbroken", None)
    number = continuation.made - 1 if continuation else 0
    # a script may train one model after the other, each with checkpoints of its own
    trace.begin(f"{getattr(callback, 'name_prefix', '')}#{number}", model._total_timesteps)
    formats = model.logger.output_formats
    if not any(isinstance(one, _LogFormat) for one in formats):
        formats.append(_LogFormat(trace))


def stepped(callback: KeeperCallback) -> None:
    """All copies of the environment have made a step."""
    trace = tracing.current()
    if trace is not None:
        given = callback.locals
        trace.step(
            callback.model.num_timesteps, **{name: given[key] for key, name in _STEP_VALUES.items() if key in given}
        )


def at_cut(callback: KeeperCallback, cut: Cut) -> None:
    """The training is at a cut; asks it to stop there when it has been followed far enough."""
    trace = tracing.current()
    if trace is None:
        return
    step = callback.model.num_timesteps
    over = trace.over(step)
    if trace.is_due(step) or over or cut == "end" or callback.keeper.schedule.is_due(step):
        _trace_state(trace, callback, cut, step)
    if over:
        callback.stop.ask(_LIMIT_REACHED)


def _trace_state(trace: Trace, callback: KeeperCallback, cut: Cut, step: int) -> None:
    try:
        captured = callback.captured(cut)
    except Exception as error:  # noqa: BLE001 - capturing runs the user's code, and a trace must not end a training
        trace.failed_cut(step, reason_of(error))
        return
    state = {"tensors": captured.tensors, "variables": captured.variables, "state": settled(captured.state)}
    trace.cut(step, cut, state, captured.missing, _owners(callback))


def _owners(callback: KeeperCallback) -> Owners:
    model = callback.model
    users = tuple(
        one for one in each_callback(callback.callbacks()) if not type(one).__module__.startswith("unbroken.")
    )
    return Owners(_environment_layers(model.env), users, tuple(_schedules(model)))


def _environment_layers(venv: VecEnv | None) -> tuple[Any, ...]:
    """The layers of the environments in this process; those of workers cannot be looked into."""
    copies = getattr(getattr(venv, "unwrapped", None), "envs", [])
    return tuple(layer for env in copies for layer in layers(env))


def _schedules(model: BaseAlgorithm) -> list[Any]:
    inside: Mapping[str, Any] = vars(model)
    found = [value for value in inside.values() if callable(value) and not isinstance(value, type)]
    # SB3 wraps a schedule in an object of its own
    return [getattr(value, "value_schedule", value) for value in found]
