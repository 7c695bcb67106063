"""What every controller is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

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


class NoControl:
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
