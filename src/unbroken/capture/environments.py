"""Capture and restore one Gymnasium environment with all its wrappers, in the middle of an episode.

The base environment is captured by the first of these that works for it: its own `get_state`/`set_state`; an adapter for
its simulator (`native`); its attributes; replay of the actions since its last reset, from the state its generators had
before that reset. Wrappers are always captured by their attributes. `selftest` proves the choice; this module makes it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from typing import Any, Literal

import gymnasium
import numpy as np

from unbroken.capture.filling import Filler
from unbroken.capture.hidden import HiddenState, assigned_names, iterators_in
from unbroken.capture.native import Adapter, find_adapter
from unbroken.capture.objects import Describer, class_name
from unbroken.capture.rng import capture_generators, restore_generators, seed_generators
from unbroken.errors import CaptureError

Strategy = Literal["auto", "protocol", "native", "attributes", "replay"]
REPLAY_LIMIT = 100_000
_ANY_SEED = 0


def layers(env: gymnasium.Env[Any, Any]) -> Iterator[gymnasium.Env[Any, Any]]:
    """The wrappers from the outside in, then the base environment."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def has_protocol(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether the base environment offers `get_state()` and `set_state(state)`; MuJoCo's lone `set_state` is not that."""
    return callable(getattr(env, "get_state", None)) and callable(getattr(env, "set_state", None))


class ActionRecorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Sits directly on the base environment and remembers what leads to its present state: the last reset and the actions since.

    Beyond `limit` actions it stops recording, and `history` is None until the next reset.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], limit: int) -> None:
        super().__init__(env)
        self.limit = limit
        self.history: dict[str, Any] | None = None
        self.outliving: set[str] = set()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and begin a new history."""
        before = {"generators": _own_generators(self.env), "lasting": _lasting_attributes(self.env)}
        self.history = {**before, "seed": seed, "options": options, "actions": []}
        iterators = iterators_in(self.env, skip=before["lasting"].keys())
        result = self.env.reset(seed=seed, options=options)
        after = iterators_in(self.env, skip=before["lasting"].keys()) if iterators else {}
        self.outliving |= {place for place, value in iterators.items() if after.get(place) is value}
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment and remember the action."""
        if self.history is not None:
            self.history["actions"].append(np.array(action) if isinstance(action, np.ndarray) else action)
            if len(self.history["actions"]) > self.limit:
                self.history = None
        return self.env.step(action)

    def replay(self, history: dict[str, Any], arrival: dict[str, Any]) -> list[str]:
        """Bring the environment to the state that the history leads to, then to the attributes in `arrival`.

        They differ where a callback has changed the environment between steps. Returns what could not be filled in.
        """
        # objects that only a reset makes may hold what outlives an episode: make them, then bring back what they held
        self.env.reset(seed=_ANY_SEED)
        _restore_own_generators(self.env, history["generators"])
        Filler(known={"itself": self.env}).fill_attributes(self.env, history["lasting"])
        self.reset(seed=history["seed"], options=history["options"])
        for action in history["actions"]:
            self.env.step(action)
        self.history = history
        return _fill_what_differs(self.env, arrival)


_GENERATORS = ("_np_random", "_np_random_seed", "action_space", "observation_space")
_NOT_LASTING = frozenset({*_GENERATORS, "spec"})


def _own_generators(env: Any) -> dict[str, Any]:
    describer = Describer()
    return {name: describer.describe(vars(env).get(name)) for name in _GENERATORS}


def _lasting_attributes(env: Any) -> dict[str, Any]:
    """What may outlive an episode beside Gymnasium's generator: counters, tables, generators under any name.

    An attribute in which something cannot be described is left to the reset to rebuild. An iterator that outlives the reset is
    named (`ActionRecorder.outliving`); whether other objects, such as a simulator in C, come back only the self-test sees.
    """
    lasting = {}
    for name, value in vars(env).items():
        describer = Describer(known={"itself": env})
        described = describer.describe(value, name) if name not in _NOT_LASTING else None
        if name not in _NOT_LASTING and not describer.opaque:
            lasting[name] = described
    return lasting


def _present_attributes(env: Any) -> dict[str, Any]:
    """The describable attributes now, generators included, in one description that keeps what they share."""
    describable = _lasting_attributes(env).keys() | set(_GENERATORS)
    names = frozenset(name for name in vars(env) if name not in describable)
    return dict(Describer(known={"itself": env}).attributes(env, skip=names))


def _fill_what_differs(env: Any, arrival: dict[str, Any]) -> list[str]:
    """Only what differs is touched: an array may be a view into a simulator's memory."""
    from unbroken.capture.codec import digest

    present = _present_attributes(env)
    differing = {n: d for n, d in arrival.items() if n not in present or digest(present[n]) != digest(d)}
    filler = Filler(known={"itself": env})
    filler.fill_attributes(env, differing)
    return [f"replay arrived elsewhere: {problem}" for problem in filler.problems]


def _restore_own_generators(env: Any, described: dict[str, Any]) -> None:
    present = {name: value for name, value in described.items() if value is not None or name.startswith("_")}
    Filler().fill_attributes(env, present)


class CaptureWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Outermost wrapper that makes an environment capturable; it changes nothing that the agent sees.

    `strategy` "auto" takes the protocol where there is one, an adapter where one handles the environment, attributes where
    all of them can be described after the first reset, and replay otherwise. A replay of more than `replay_limit` actions
    is refused. Not thread safe.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], strategy: Strategy = "auto", replay_limit: int = REPLAY_LIMIT
    ) -> None:
        super().__init__(env)
        self.strategy: Strategy = strategy
        self.opaque: list[str] = []
        self._recorder: ActionRecorder | None = None
        self._begun = False
        self._reset_info: dict[str, Any] | None = None
        self._hidden: HiddenState | None = None
        if strategy == "auto" and has_protocol(self.unwrapped):
            self.strategy = "protocol"
        self._adapter: Adapter | None = None
        if self.strategy in ("auto", "native"):
            self._adapter = find_adapter(self.unwrapped)
            self._require_adapter(self.strategy)
        if self.strategy in ("auto", "replay"):
            self._recorder = self._insert_recorder(replay_limit)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; at the first reset the strategy is settled."""
        if self._reset_info is not None:
            info, self._reset_info = self._reset_info, None
            return None, info
        # not at construction: other environments of the class may still be made, and count themselves there
        self._hidden = self._hidden or HiddenState([*self._wrappers(), self.unwrapped])
        result = self.env.reset(seed=seed, options=options)
        if not self._begun:
            self._hidden.settle()
        self._begun = True
        if self.strategy == "auto":
            self._settle()
        return result

    def remind_of_reset(self, info: dict[str, Any]) -> None:
        """Let the next reset do nothing but give this info, to somebody who keeps it and has forgotten."""
        self._reset_info = info

    def capture_state(self) -> dict[str, Any]:
        """Description of every layer, and of the generators of this process if it is a worker's.

        Before the first reset there is nothing to capture. Raises CaptureError when the base environment has been
        replayed beyond its limit, and whatever the environment's own `get_state` raises.
        """
        if not self._begun:
            return {"begun": False}
        describer = self._describer()
        wrappers = [_describe_layer(describer, layer) for layer in self._wrappers()]
        base = self._capture_base(describer)
        state = {"begun": True, "strategy": self.strategy, "wrappers": wrappers, "base": base}
        self.opaque = [*describer.opaque, *self._unfillable(describer)]
        if multiprocessing.parent_process() is not None:
            state["process"] = capture_generators()
        return state

    def restore_state(self, state: dict[str, Any]) -> list[str]:
        """Bring every layer into the described state; returns what did not fit in the wrappers.

        Raises CaptureError when the base environment cannot take the state; it then needs a reset.
        """
        if not state["begun"]:
            return []
        if not self._begun:
            # some environments make their objects in reset only, and without them there is nothing to fill
            self.reset(seed=_ANY_SEED)
        filler = Filler(known=self._known(), special=_keep_handle)
        elsewhere = self._restore_base(filler, state["strategy"], state["base"])
        if filler.problems:
            raise CaptureError(f"the environment cannot take the stored state: {filler.problems[0]}")
        wrappers = list(self._wrappers())
        if [class_name(layer) for layer in wrappers] != [entry["class"] for entry in state["wrappers"]]:
            raise CaptureError("the environment's wrappers are not those of the checkpoint")
        for layer, entry in zip(wrappers, state["wrappers"], strict=True):
            _restore_layer(filler, layer, entry)
        if "process" in state and multiprocessing.parent_process() is not None:
            restore_generators(state["process"])
        return elsewhere + filler.problems

    def try_capture(self) -> dict[str, Any]:
        """`{"state": …, "not_captured": […]}` or `{"error": …}`: an exception would end a worker, and the training with it."""
        try:
            return {"state": self.capture_state(), "not_captured": self.coverage()["not_captured"]}
        except Exception as error:  # noqa: BLE001 - whatever the user's get_state raises; the caller raises it again
            return {"error": _reason(error)}

    def try_restore(self, state: dict[str, Any]) -> dict[str, Any]:
        """`{"problems": […]}` or `{"error": …}`, for the same reason."""
        try:
            return {"problems": self.restore_state(state)}
        except Exception as error:  # noqa: BLE001 - whatever the user's set_state raises; the caller reports it
            return {"error": _reason(error)}

    def seed_process(self, seed: int) -> None:
        """Seed the global generators of a worker process, which begins with random ones; nothing in the training process."""
        if multiprocessing.parent_process() is not None:
            seed_generators(seed)

    def coverage(self) -> dict[str, Any]:
        """How this environment is captured: {"strategy": …, "not_captured": [...]}, as far as is known by now."""
        return {"strategy": self.strategy, "not_captured": [*self.opaque, *self._outliving(), *self._hidden_names()]}

    def must_be_alone(self) -> bool:
        """Whether another environment of the kind in this process would disturb this one."""
        return self._adapter is not None and self._adapter.one_per_process

    def _outliving(self) -> list[str]:
        """Iterators that a reset leaves as they are: a replay in a fresh environment draws their first items again."""
        return sorted(self._recorder.outliving) if self.strategy == "replay" and self._recorder else []

    def _hidden_names(self) -> list[str]:
        """Without what the environment's own `set_state` assigns: the protocol is how a user brings such state back."""
        if self._hidden is None:
            return []
        base: Any = self.unwrapped
        return self._hidden.names(assigned_names(base.set_state) if self.strategy == "protocol" else frozenset())

    def _wrappers(self) -> Iterator[gymnasium.Env[Any, Any]]:
        """The layers between this one and the base, without the recorder."""
        for layer in list(layers(self.env))[:-1]:
            if not isinstance(layer, ActionRecorder):
                yield layer

    def _known(self) -> dict[str, Any]:
        return {f"layer {k}": layer for k, layer in enumerate([*self._wrappers(), self.unwrapped])}

    def _require_adapter(self, strategy: Any) -> None:
        """Settle on the adapter if there is one. Raises CaptureError if there must be one."""
        if self._adapter is not None:
            self.strategy = "native"
        elif strategy == "native":
            raise CaptureError(f"no adapter handles {class_name(self.unwrapped)}; is its package installed?")

    def _describer(self) -> Describer:
        adapter = self._adapter
        if adapter is None:
            return Describer(known=self._known())
        return Describer(known=self._known(), special=lambda value: "handle" if adapter.is_handle(value) else None)

    def _capture_base(self, describer: Describer) -> Any:
        if self.strategy == "native":
            assert self._adapter is not None
            return self._adapter.capture(describer)
        if self.strategy == "replay":
            return self._captured_history(describer)
        if self.strategy == "protocol":
            base: Any = self.unwrapped
            return {"state": describer.describe(base.get_state(), "get_state()"), "generators": _own_generators(base)}
        return describer.attributes(self.unwrapped, class_name(self.unwrapped), skip=frozenset({"spec"}))

    def _unfillable(self, describer: Describer) -> list[str]:
        """What attributes describe and a fresh environment could not take."""
        kept = describer.unfillable if self.strategy == "attributes" else []
        return [
            f"{path.lstrip('.')}: an object inside a container; give the environment get_state/set_state"
            for path in kept[:1]
        ]

    def _captured_history(self, describer: Describer) -> Any:
        assert self._recorder is not None
        if self._recorder.history is None:
            raise CaptureError(
                f"the environment can only be captured by replay, and this episode is longer than the "
                f"{self._recorder.limit:,} steps that a replay may cost; give it get_state/set_state"
            )
        history = dict(self._recorder.history)
        actions = history["actions"]
        stackable = bool(actions) and all(isinstance(a, np.ndarray | np.generic) for a in actions)
        history["actions"] = np.stack(actions) if stackable else describer.describe(list(actions))
        history["options"] = describer.describe(history["options"])
        return {**history, "arrival": _present_attributes(self.unwrapped)}

    def _restore_base(self, filler: Filler, strategy: str, described: Any) -> list[str]:
        """Returns where a replay arrived that it should not have; what else does not fit is in the filler's problems."""
        if strategy == "replay":
            self.strategy = "replay"
            self._recorder = self._recorder or self._insert_recorder(REPLAY_LIMIT)
            actions = described["actions"]
            listed = (
                [a.copy() if a.ndim else a[()] for a in actions]
                if isinstance(actions, np.ndarray)
                else filler.build(actions)
            )
            history = {**described, "actions": listed, "options": filler.build(described["options"])}
            return self._recorder.replay(history, history.pop("arrival", {}))
        self._settle_on(strategy)
        if strategy == "native":
            self._require_adapter(strategy)
            assert self._adapter is not None
            self._adapter.restore(filler, described)
        elif strategy == "protocol":
            base: Any = self.unwrapped
            base.set_state(filler.build(described["state"]))
            _restore_own_generators(base, described["generators"])
        else:
            filler.fill_attributes(self.unwrapped, described, class_name(self.unwrapped))
        return []

    def _insert_recorder(self, limit: int) -> ActionRecorder:
        above: Any = list(layers(self))[-2]
        above.env = ActionRecorder(self.unwrapped, limit)
        recorder: ActionRecorder = above.env
        return recorder

    def _settle(self) -> None:
        describer = Describer(known=self._known())
        described = describer.attributes(self.unwrapped, class_name(self.unwrapped), skip=frozenset({"spec"}))
        del described
        self._settle_on("replay" if describer.opaque or describer.unfillable else "attributes")

    def _settle_on(self, strategy: Any) -> None:
        self.strategy = strategy
        if strategy != "replay" and self._recorder is not None:
            above: Any = next(layer for layer in layers(self) if getattr(layer, "env", None) is self._recorder)
            above.env = self._recorder.env
            self._recorder = None


def _keep_handle(live: Any, description: Any) -> Any:
    """What belongs to a simulator is where the environment put it."""
    return live


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, CaptureError) else f"{type(error).__name__}: {error}"


_LAYER_SKIP = frozenset(
    {"env", "spec", "_cached_spec", "render_history", "_metadata", "file_handler", "logger", "results_writer"}
)


def _describe_layer(describer: Describer, layer: Any) -> dict[str, Any]:
    entry = {"class": class_name(layer), "attributes": describer.attributes(layer, type(layer).__name__, _LAYER_SKIP)}
    if isinstance(getattr(layer, "t_start", None), float):
        # Monitor measures episodes from a wall-clock start; only the time that has passed means anything elsewhere
        entry["elapsed"] = max(0.0, time.time() - layer.t_start)
    return entry


def _restore_layer(filler: Filler, layer: Any, entry: dict[str, Any]) -> None:
    filler.fill_attributes(layer, entry["attributes"], type(layer).__name__)
    if "elapsed" in entry:
        layer.t_start = time.time() - entry["elapsed"]


def find_capture_wrapper(env: gymnasium.Env[Any, Any]) -> CaptureWrapper | None:
    """The CaptureWrapper in an environment's layers, or None."""
    with contextlib.suppress(StopIteration):
        return next(layer for layer in layers(env) if isinstance(layer, CaptureWrapper))
    return None
