"""What every controller is."""

from __future__ import annotations

from typing import Protocol

from unbroken.traffic.simulation import Simulation

INTERVAL = 3.0  # s between two calls


class Controller(Protocol):
    """Sets signals, meters or limits of a simulation for the next `INTERVAL` seconds. One controller belongs to one simulation."""

    def act(self, simulation: Simulation) -> None:
        """Called every `INTERVAL` s of simulated time, from time 0 on."""
        ...


class NoControl:
    """Leaves meters open and speed limits as they are."""

    def act(self, simulation: Simulation) -> None:
        """Nothing."""
