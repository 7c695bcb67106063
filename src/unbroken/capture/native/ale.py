"""The Arcade Learning Environment: the emulator's own state, its generator included, beside the environment's attributes.

With sticky actions the emulator repeats the action before, and that one is in no state that it gives away. It follows from
the last actions asked for and the generator's draws, so they are recorded, from a state that lies far enough back.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from unbroken.capture.filling import Filler
from unbroken.capture.native import class_names, from_module
from unbroken.capture.objects import Describer, Description, class_name

_SKIP = frozenset({"spec", "ale"})
# the chance that an action older than those recorded still counts: exp(-40), less than 1e-17
_FORGOTTEN = 40.0
_FEWEST, _MOST = 16, 4096


class RecordingInterface:
    """An `ALEInterface` that keeps its last calls, and the state before them. Everything else is the interface's own."""

    def __init__(self, ale: Any) -> None:
        self._ale = ale
        self._least = _calls_to_keep(ale.getFloat("repeat_action_probability"))
        self._before: list[list[Any]] = []
        self._calls: list[list[Any]] = []
        self._begin()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ale, name)

    def loadROM(self, *arguments: Any) -> None:  # noqa: N802 - the emulator's name
        """Start a game; no action has been asked for then."""
        self._ale.loadROM(*arguments)
        self._begin()

    def act(self, action: Any, strength: float = 1.0) -> Any:
        """One frame."""
        self._remember(["act", int(getattr(action, "value", action)), float(strength)])
        return self._ale.act(action, strength)

    def reset_game(self) -> None:
        """Begin an episode."""
        self._remember(["reset_game"])
        self._ale.reset_game()

    def restoreState(self, state: Any) -> None:  # noqa: N802 - as above
        """Jump to another state."""
        self._remember(["restoreState", np.frombuffer(state.serialize(), dtype=np.uint8)])
        self._ale.restoreState(state)

    def recorded(self) -> Description:
        """The emulator's state, and the calls that lead to it from an earlier one by way of a middle one, as a description."""
        return {
            "state": self._state(),
            "earlier": self._earlier,
            "middle": self._middle,
            "calls": [*self._before, *self._calls],
            "calls_to_middle": len(self._before),
        }

    def bring_back(self, recorded: Description) -> None:
        """Repeat the recorded calls after a game has been loaded, then take the state. The screen follows with the next act."""
        from ale_py import Action, ALEState

        self._ale.restoreState(ALEState(recorded["earlier"].tobytes()))
        for name, *arguments in recorded["calls"]:
            if name == "act":
                self._ale.act(Action(arguments[0]), arguments[1])
            elif name == "reset_game":
                self._ale.reset_game()
            elif name == "restoreState":
                self._ale.restoreState(ALEState(arguments[0].tobytes()))
        self._ale.restoreState(ALEState(recorded["state"].tobytes()))
        self._go_on_recording(recorded)

    def _go_on_recording(self, recorded: Description) -> None:
        """From where the recording stood, so that a resumed training's later checkpoints have the bits of one never stopped."""
        self._earlier = recorded["earlier"]
        # checkpoints made before say nothing of a middle
        self._middle = recorded.get("middle", recorded["state"])
        to_middle = recorded.get("calls_to_middle", len(recorded["calls"]))
        self._before, self._calls = list(recorded["calls"][:to_middle]), list(recorded["calls"][to_middle:])

    def _begin(self) -> None:
        self._earlier = self._middle = self._state()
        self._before, self._calls = [], []

    def _remember(self, call: list[Any]) -> None:
        if len(self._calls) >= self._least:
            self._earlier, self._before = self._middle, self._calls
            self._middle, self._calls = self._state(), []
        self._calls.append(call)

    def _state(self) -> np.ndarray:
        return np.frombuffer(self._ale.cloneState(include_rng=True).serialize(), dtype=np.uint8)


class AleAdapter:
    """Adapter of `ale_py.AtariEnv` and what inherits from it."""

    name = "ale"
    one_per_process = False

    @classmethod
    def handles(cls, env: Any) -> bool:
        """Whether the environment is `ale_py`'s."""
        return "ale_py.env:AtariEnv" in class_names(env)

    def __init__(self, env: Any) -> None:
        self._env = env
        env.ale = RecordingInterface(env.ale)

    def is_handle(self, value: Any) -> bool:
        """The emulator and its constants."""
        return isinstance(value, RecordingInterface) or from_module(value, "ale_py")

    def capture(self, describer: Describer) -> Description:
        """The serialised emulator as bytes with its last calls, and the attributes."""
        attributes = describer.attributes(self._env, class_name(self._env), skip=_SKIP)
        return {"emulator": self._env.ale.recorded(), "attributes": attributes}

    def restore(self, filler: Filler, state: Description) -> None:
        """Load the game anew, set the emulator, then the attributes."""
        self._env.load_game()
        self._env.ale.bring_back(state["emulator"])
        filler.fill_attributes(self._env, state["attributes"], class_name(self._env))


def _calls_to_keep(repeat_probability: float) -> int:
    if not 0.0 < repeat_probability < 1.0:
        return _FEWEST
    return min(_MOST, max(_FEWEST, math.ceil(-_FORGOTTEN / math.log(repeat_probability))))
