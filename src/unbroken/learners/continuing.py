"""SB3 models whose `learn()` continues: the same call, made again by a later leg, goes on where the earlier one stopped.

SB3 counts logging iterations from zero in every `learn()`; here the count goes on. An instance attribute that patches a
method would be pickled by `save()`, so the model gets a subclass of its own class for as long as it lives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from unbroken import logs
from unbroken.capture.construction import Construction, construction_of


@dataclass
class LearnCall:
    """One `learn()` call of a script: where it began, what it asked for, and where it ended, if it has."""

    start: int
    total: int
    end: int | None = None


@dataclass
class Continuation:
    """What a continued training knows about the `learn()` calls before this process.

    Where a target rules and not the calls, `records_calls` is False: how the way was cut into legs is no state then.
    """

    calls: list[LearnCall] = field(default_factory=list)
    records_calls: bool = True
    made: int = 0
    iteration: int = 0
    log_interval: int | None = 1
    prepare: Callable[[Any], Any] = lambda callback: callback
    say: Callable[[str], None] = logs.checkpoint
    around: Callable[[Callable[[], Any]], Any] = lambda learn: learn()
    carried: bool = False
    construction: Construction | None = None

    def carry_on(self, iteration: int, *, mid_call: bool) -> None:
        """The next new `learn()` call continues one of an earlier leg, `iteration` iterations into it."""
        self.iteration, self.carried = iteration, mid_call

    def plain(self) -> list[dict[str, Any]]:
        """The calls as plain data."""
        return [asdict(call) for call in self.calls] if self.records_calls else []


def make_continuing(model: BaseAlgorithm) -> Continuation:
    """Give a model that has just been constructed a `learn()` that continues."""
    continuation = Continuation(construction=construction_of(model))
    model.__class__ = _continuing_class(type(model))
    model._unbroken = continuation  # type: ignore[attr-defined]
    return continuation


def _continuing_class(cls: type[BaseAlgorithm]) -> type[BaseAlgorithm]:
    """A subclass under the same name. Single inheritance: another base would change the layout of its objects."""
    counts_iterations = issubclass(cls, OnPolicyAlgorithm)
    usual_interval = inspect.signature(cls.learn).parameters["log_interval"].default

    class Continuing(cls):  # type: ignore[misc,valid-type]
        _unbroken: Continuation

        def _excluded_save_params(self) -> list[str]:
            return [*super()._excluded_save_params(), "_unbroken"]

        def learn(
            self, total_timesteps: int, callback: Any = None, log_interval: int | None = None, **words: Any
        ) -> Any:
            """SB3's `learn()`. After a resume, `total_timesteps` counts from where this call began in the first leg."""
            if log_interval is None:
                log_interval = usual_interval
            self._unbroken.log_interval = log_interval
            # every iteration comes to dump_logs, which keeps the phase over legs
            words["log_interval"] = 1 if counts_iterations else log_interval
            return _learn(self, super().learn, total_timesteps, callback, words)

        def dump_logs(self, *iteration: int) -> None:
            """SB3's `dump_logs` with the iteration counted over all legs."""
            if not iteration:
                super().dump_logs()
                return
            state = self._unbroken
            true = iteration[0] + state.iteration
            if state.log_interval is not None and true % state.log_interval == 0:
                super().dump_logs(true)

    Continuing.__name__, Continuing.__qualname__, Continuing.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return Continuing


def _learn(model: Any, learn: Callable[..., Any], total: int, callback: Any, words: dict[str, Any]) -> Any:
    state: Continuation = model._unbroken
    number, state.made = state.made, state.made + 1
    if number < len(state.calls):
        return _continue(model, learn, state.calls[number], total, callback, words)
    reset = words.setdefault("reset_num_timesteps", True)
    state.calls.append(LearnCall(0 if reset else model.num_timesteps, total))
    if not state.carried:
        state.iteration = 0
    state.carried = False
    prepared = state.prepare(callback)
    return state.around(lambda: learn(total, prepared, **words))


def _continue(
    model: Any, learn: Callable[..., Any], call: LearnCall, total: int, callback: Any, words: dict[str, Any]
) -> Any:
    """Go on with a call of an earlier leg, or say that it is done."""
    state: Continuation = model._unbroken
    goal = call.start + total
    if call.end is not None and (goal <= call.end or call is not state.calls[-1]):
        state.say(f"learn({total:,}) was completed by an earlier leg at step {call.end:,}: nothing to do")
        return model
    if call.end is not None:
        state.iteration = 0
    call.total, call.end = total, None
    prepared = state.prepare(callback)
    continued = {**words, "reset_num_timesteps": False}
    return state.around(lambda: learn(goal - model.num_timesteps, prepared, **continued))
