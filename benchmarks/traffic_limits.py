"""What learning could find on the scenario of speed limits: the delay of one flow all the time, and of a meter at the entrance.

    python benchmarks/traffic_limits.py

Beside `unbroken validate --section 7.6`, on the same 20 seeds of demand, over the same hour and drain, both in % of the delay
without control: the peers that an agent there should be held against.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from machine import describe_machine, machine_line, table
from numpy.typing import NDArray

from unbroken.traffic.controllers.base import Controller, drive
from unbroken.traffic.controllers.choosing import make_controller
from unbroken.traffic.scenario import Scenario, load_scenario
from unbroken.traffic.simulation import Simulation
from unbroken.validation.sections import load_sections

Floats = NDArray[np.float64]
SCENARIO = "adaptive_speed_control"
SHARES = (0.94, 0.95, 0.96, 0.965, 0.97, 0.975, 0.98, 0.99, 1.0)
FLOWS = (1500.0, 1700.0, 1800.0, 1850.0, 1900.0, 1950.0, 2000.0, 2050.0, 2100.0, 2300.0, 2600.0)  # PCU/h
BOTTLENECK = 3.98  # metres of vehicles per second (2,006 PCU/h) that the bridge passes without a queue


def held_out() -> tuple[int, ...]:
    """The seeds of demand on which section 7.6 judges."""
    seeds = load_sections()["7.6"].seeds
    return tuple(range(seeds.first, seeds.first + seeds.full))


def delay(scenario: Scenario, demands: list[Floats], control: Callable[[Simulation, float], None]) -> Floats:
    """Delay in veh h of both classes, (seeds,), from the end of the warm-up to the end of the drain."""
    horizon, simulation = scenario.horizon, Simulation(scenario.network, len(demands))
    for index, flows in enumerate(demands):
        simulation.set_demand(index, flows)
    simulation.advance(horizon.warm_up)
    before = _so_far(simulation)
    control(simulation, horizon.measured + horizon.drain)
    return (_so_far(simulation) - before) / 3600.0


def _so_far(simulation: Simulation) -> Floats:
    return np.asarray(simulation.time_spent() - simulation.free_time()).sum(axis=1)


def demands(scenario: Scenario) -> list[Floats]:
    """Flows by minute, with empty minutes after the end: the last one of a demand goes on for ever."""
    drawn = [scenario.draw_demand(np.random.default_rng(seed)) for seed in held_out()]
    return [np.concatenate([flows, np.zeros((*flows.shape[:2], 15))], axis=2) for flows in drawn]


def under(controller: Controller) -> Callable[[Simulation, float], None]:
    """Control by a baseline."""
    return lambda simulation, seconds: drive(simulation, controller, seconds)


def metered(scenario: Scenario, flows: Floats, share: float) -> tuple[Floats, float]:
    """What the one origin lets in at `share` of what the bottleneck passes, and the veh h waited before it after the warm-up.

    What is metered is metres of vehicles, as a lane drop passes them, minute by minute; what is held passes later.
    """
    lengths, passing = np.array([c.length for c in scenario.network.classes]), flows.copy()
    held, waited = np.zeros(2), 0.0
    for minute in range(flows.shape[2]):
        there = flows[:, 0, minute] * 60.0 + held
        passed = there * min(1.0, share * BOTTLENECK * 60.0 / max(float(there @ lengths), 1e-9))
        held = there - passed
        waited += 60.0 * float(held.sum()) if 60.0 * minute >= scenario.horizon.warm_up else 0.0
        passing[:, 0, minute] = passed / 60.0
    return passing, waited / 3600.0


def entrance_meter(scenario: Scenario, flows: list[Floats], share: float) -> float:
    """Mean delay in veh h, waiting before the meter included."""
    let_in = [metered(scenario, one, share) for one in flows]
    inside = delay(scenario, [one for one, _ in let_in], lambda simulation, seconds: simulation.advance(seconds))
    return float(np.mean(inside + [waited for _, waited in let_in]))


def main() -> None:
    """Print both."""
    scenario = load_scenario(SCENARIO)
    flows = demands(scenario)
    none = float(delay(scenario, flows, under(make_controller("none", scenario))).mean())
    kept = [
        delay(scenario, flows, under(make_controller("holding", scenario, {"flow": flow}))).mean() for flow in FLOWS
    ]
    meter = [entrance_meter(scenario, flows, share) for share in SHARES]
    print(machine_line(describe_machine()))
    print(f"\nNo control: {none:.1f} veh h of delay, mean of {len(flows)} seeds. In % of it:\n")
    print(table(["one flow, PCU/h", *(f"{f:,.0f}" for f in FLOWS)], [["", *(f"{100 * k / none:.0f}" for k in kept)]]))
    print()
    shares = [f"{100 * share:g}" for share in SHARES]
    print(table(["meter, % of capacity", *shares], [["", *(f"{100 * m / none:.0f}" for m in meter)]]))


if __name__ == "__main__":
    main()
