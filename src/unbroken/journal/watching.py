"""Vector environments whose calls pass by a journal.

The innermost vector environment gets a subclass of its own class, of the same name and without an attribute of its own, for as
long as it lives: layers, class names and `isinstance` stay as they are, for our captures and for everybody's code. A wrapper
around it would break SB3's `sync_envs_normalization` with an evaluation environment of the user's that has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from unbroken.capture.environments import CaptureWrapper
from unbroken.journal.records import Heard

# our own questions belong to captures; what the training sees does not depend on them
_OURS = frozenset(name for name in vars(CaptureWrapper) if not name.startswith("_")) - {"reset", "step"}


class Listener(Protocol):
    """What hears of the calls; `channel` numbers the vector environments."""

    @property
    def is_replaying(self) -> bool:
        """Whether calls are answered without the environments."""
        ...

    def question(self, arguments: Any) -> str:
        """What identifies a call with its arguments, taken before it is made: they may be altered by it."""
        ...

    def call(self, channel: int, name: str, question: str, run: Callable[[], Any]) -> Any:
        """The result of a call that `run` makes."""
        ...

    def reached(self) -> None:
        """Somebody has taken the list of environments, past all calls."""
        ...


class _Inside:
    """Whether code of the vector environment itself is at work, whose own calls are part of one that has passed already."""

    def __init__(self) -> None:
        self.now = False

    def run(self, call: Callable[[], Any]) -> Any:
        before, self.now = self.now, True
        try:
            return call()
        finally:
            self.now = before


def watch(base: VecEnv, listener: Listener, channel: int) -> None:
    """Let every later call of a Dummy- or SubprocVecEnv pass by the listener."""
    inside = _Inside()

    def passing(name: str, arguments: Any, call: Callable[[], Any]) -> Any:
        if inside.now:
            return call()
        return listener.call(channel, name, listener.question(arguments), lambda: inside.run(call))

    watched: Any = _with_steps(type(base), listener, channel, inside)
    watched = _with_questions(watched, passing, inside)
    if isinstance(base, DummyVecEnv):
        watched = _with_guard(watched, listener, inside)
    cls = type(base)
    watched.__name__, watched.__qualname__, watched.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    base.__class__ = watched


def _remember(venv: VecEnv, infos: Mapping[int, Any]) -> None:
    """What a vector environment keeps of the last resets, also where they have only been answered."""
    if infos:
        kept = list(venv.reset_infos)
        for k, info in infos.items():
            kept[k] = info
        venv.reset_infos = type(venv.reset_infos)(kept)


def _with_steps(cls: Any, listener: Listener, channel: int, inside: _Inside) -> Any:
    asked: list[str] = []

    class Stepping(cls):  # type: ignore[misc]
        def step_async(self, actions: Any) -> None:
            asked[:] = [listener.question(actions)]
            if not listener.is_replaying:
                super().step_async(actions)
            elif isinstance(self, DummyVecEnv):
                self.actions = actions

        def step_wait(self) -> Any:
            wait = super().step_wait

            def call() -> Heard:
                result = wait()
                return Heard(result, {int(k): self.reset_infos[k] for k in result[2].nonzero()[0]})

            heard = listener.call(channel, "step", asked.pop(), lambda: inside.run(call))
            _remember(self, heard.infos)
            return heard.result

    return Stepping


def _with_questions(cls: Any, passing: Callable[[str, Any, Callable[[], Any]], Any], inside: _Inside) -> Any:
    class Asking(cls):  # type: ignore[misc]
        def reset(self) -> Any:
            reset = super().reset

            def call() -> Heard:
                return Heard(reset(), dict(enumerate(self.reset_infos)))

            heard = passing("reset", [self._seeds, self._options], call)
            # as the call does itself when it is made
            _remember(self, heard.infos)
            self._reset_seeds()
            self._reset_options()
            return heard.result

        def get_images(self) -> Any:
            return passing("get_images", None, super().get_images)

        def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **words: Any) -> Any:
            method = super().env_method

            def call() -> Any:
                return method(method_name, *arguments, indices=indices, **words)

            if method_name in _OURS:
                return inside.run(call)
            return passing(f"env_method {method_name}", [arguments, words, indices], call)

        def get_attr(self, attr_name: str, indices: Any = None) -> Any:
            get = super().get_attr
            return passing(f"get_attr {attr_name}", indices, lambda: get(attr_name, indices))

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            put = super().set_attr
            passing(f"set_attr {attr_name}", [value, indices], lambda: put(attr_name, value, indices))

        # facts that no step changes: asked at any time, also in the middle of a replay

        def has_attr(self, attr_name: str) -> bool:
            has = super().has_attr
            return bool(inside.run(lambda: has(attr_name)))

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> Any:
            is_wrapped = super().env_is_wrapped
            return inside.run(lambda: is_wrapped(wrapper_class, indices))

        def close(self) -> None:
            inside.run(super().close)

    return Asking


def _with_guard(cls: Any, listener: Listener, inside: _Inside) -> Any:
    class Guarded(cls):  # type: ignore[misc]
        @property
        def envs(self) -> Any:
            if not inside.now:
                listener.reached()
            return self.__dict__["envs"]

        @envs.setter
        def envs(self, value: Any) -> None:
            self.__dict__["envs"] = value

    return Guarded
