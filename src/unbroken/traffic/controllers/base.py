"""What every controller is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from unbroken.errors import ConfigurationError
from unbroken.traffic.scenario import INTERVAL
from unbroken.traffic.simulation import Simulation


def is_due(simulation: Simulation, period: float) -> bool:
    """Whether a new period of `period` s begins now, to half a step: times are multiples of a step that may be rounded."""
    now = simulation.time()
    return abs(now - period * round(now / period)) < simulation.network.step / 2


class Controller(Protocol):
    """Sets signals, meters or limits of a simulation for the next `INTERVAL` seconds. One controller belongs to one simulation."""

    def act(self, simulation: Simulation) -> None:
        """Called every `INTERVAL` s of simulated time, from time 0 on."""
        ...


class Resumable(Controller, Protocol):
    """A controller that can go on from what it remembered at a time between two calls of `act`."""

    def get_state(self) -> dict[str, Any]:
        """All that it remembers, as plain data and arrays of its own."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_state` of a controller of the same scenario and settings gave."""
        ...


class Remembering:
    """What a controller remembers is in the attributes that `_memory` names: arrays, numbers or None."""

    _memory: ClassVar[tuple[str, ...]] = ()

    def get_state(self) -> dict[str, Any]:
        """See `Resumable`."""
        return {name: copy.deepcopy(getattr(self, name)) for name in self._memory}

    def set_state(self, state: dict[str, Any]) -> None:
        """See `Resumable`."""
        if set(state) != set(self._memory):
            raise ConfigurationError(f"{type(self).__name__} remembers {sorted(self._memory)}, not {sorted(state)}")
        for name, value in state.items():
            setattr(self, name, copy.deepcopy(value))


class NoControl(Remembering):
    """Leaves meters open and speed limits as they are."""

    def act(self, simulation: Simulation) -> None:
        """Nothing."""


def drive(
    simulation: Simulation, controller: Controller, duration: float, after: Callable[[], None] | None = None
) -> None:
    """Simulate `duration` s, a multiple of `INTERVAL`, under a controller; `after` is called after each interval."""
    for _ in range(round(duration / INTERVAL)):
        controller.act(simulation)
        simulation.advance(INTERVAL)
        if after:
            after()
