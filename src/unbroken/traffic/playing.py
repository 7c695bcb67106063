"""One simulation of a scenario under a controller, measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unbroken.traffic.controllers.base import Controller, drive
from unbroken.traffic.controllers.choosing import first_baseline
from unbroken.traffic.metrics import Metrics, Recorder
from unbroken.traffic.scenario import DECISION, Scenario
from unbroken.traffic.simulation import Simulation

Floats = NDArray[np.float64]


@dataclass
class Trace:
    """Occupancy of all slots over time, for pictures: `times` in s, `occupancy` one row for each."""

    times: list[float] = field(default_factory=list)
    occupancy: list[Floats] = field(default_factory=list)

    def look(self, simulation: Simulation) -> None:
        """Add the present state of copy 0."""
        self.times.append(simulation.time())
        self.occupancy.append(np.asarray(simulation.layout.law.lengths @ simulation.state.cells[0, :2]))


def play(
    scenario: Scenario,
    controller: Controller,
    seed: int,
    duration: float | None = None,
    *,
    warm_up_controller: Controller | None = None,
    look: Callable[[Simulation], None] | None = None,
) -> Metrics:
    """Warm up, measure `duration` s (default: the scenario's), drain without new demand, and measure that too.

    The same seed gives the same arrivals whatever controls; a short duration sees the beginning of a long one's. The warm-up passes
    under `warm_up_controller`, by default the scenario's first baseline, as in the environments: what is compared begins alike.
    `look` is called after the warm-up and then every 15 s.

    Raises:
        ConfigurationError: a duration that is not a multiple of 60 s, or longer than the scenario has demand for.
    """
    horizon = scenario.horizon if duration is None else scenario.measured_for(duration)
    measured = horizon.measured
    simulation = Simulation(scenario.network)
    rng = np.random.default_rng(seed)
    simulation.set_demand(0, scenario.draw_demand(rng, horizon.warm_up + measured))
    drive(simulation, warm_up_controller or first_baseline(scenario), horizon.warm_up)
    recorder = Recorder(simulation)
    if look:
        look(simulation)
    for _ in range(round((measured + horizon.drain) / DECISION)):
        drive(simulation, controller, DECISION, recorder.sample)
        if look:
            look(simulation)
    return recorder.result()
