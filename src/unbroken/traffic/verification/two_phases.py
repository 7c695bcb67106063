"""Webster's plan of a two-phase junction, and plans near it, under random arrivals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unbroken.traffic.demand import Demand, Profile
from unbroken.traffic.layout import DEMAND_PERIOD
from unbroken.traffic.road_network import Link, Movement, Node, RoadNetwork, Signal
from unbroken.traffic.simulation import Simulation
from unbroken.traffic.verification.experiments import saturation

Floats = NDArray[np.float64]
WARM_UP, MEASURED = 600.0, 3600.0  # s
YELLOW_AND_RED, END_GAIN = 5.0, 2.0  # s

NETWORK = RoadNetwork(
    {"west": Link(1500.0), "south": Link(1500.0), "east": Link(300.0), "north": Link(300.0)},
    {
        "junction": Node(
            (Movement("west", "east"), Movement("south", "north")),
            signal=Signal((("west",), ("south",)), max_green=1e6),
        )
    },
    ("west", "south"),
    {"east": math.inf, "north": math.inf},
)


@dataclass(frozen=True)
class Plan:
    """Displayed greens (s) of both phases, with 5 s between them; `cycle` in s."""

    greens: tuple[float, float]

    @property
    def cycle(self) -> float:
        return sum(self.greens) + 2 * YELLOW_AND_RED


def webster(
    ratios: tuple[float, float], lost_time: float, *, cycle_factor: float = 1.0, split_factor: float = 1.0
) -> Plan:
    """C = (1.5 L + 5) / (1 - Y), effective greens in proportion to `ratios` y; factors move the cycle or the first green.

    `lost_time` is the start-up lost time in s; L adds what yellow and all-red lose (Webster, Traffic Signal Settings, Road Research
    Technical Paper 39, 1958).
    """
    lost = 2 * (YELLOW_AND_RED - END_GAIN + lost_time)
    total = sum(ratios)
    effective = (1.5 * lost + 5.0) / (1.0 - total) * cycle_factor - lost
    first = effective * ratios[0] / total * split_factor
    shown = [green - END_GAIN + lost_time for green in (first, effective - first)]
    return Plan((shown[0], shown[1]))


def time_spent(plan: Plan, flow_rates: tuple[float, float], seeds: int) -> Floats:
    """Time (veh s) spent in an hour after 600 s of warm-up, vertical queues left out as the approaches hold the queues; by seed.

    Cars arrive at `flow_rates` (veh/s), as Poisson counts by minute.
    """
    simulation = Simulation(NETWORK, seeds)
    profiles = {name: Profile(((0.0, flow),), 0.0) for name, flow in zip(("west", "south"), flow_rates, strict=True)}
    duration = WARM_UP + MEASURED + DEMAND_PERIOD
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        simulation.set_demand(seed, Demand(profiles).draw(("west", "south"), duration, DEMAND_PERIOD, rng))
    simulation.state.phases[:] = 0
    ends, phase = plan.greens[0], 0
    spent = []
    for until in (WARM_UP, WARM_UP + MEASURED):
        while ends < until:
            _advance_to(simulation, ends)
            simulation.state.phases[:, 0], simulation.state.phases[:, 1] = phase, 1 - phase
            simulation.state.switch[:, 0], simulation.state.switch[:, 1] = ends + END_GAIN, ends + YELLOW_AND_RED
            phase = 1 - phase
            ends += YELLOW_AND_RED + plan.greens[phase]
        _advance_to(simulation, until)
        spent.append(simulation.state.present.sum(axis=1) @ simulation.layout.lane_length)
    return np.asarray(spent[1] - spent[0])


def _advance_to(simulation: Simulation, time: float) -> None:
    """To the last whole step before `time`."""
    step = simulation.network.step
    simulation.advance((math.floor(time / step + 1e-9) - round(simulation.time() / step)) * step)


PERTURBATIONS = {
    "Webster": (1.0, 1.0),
    "cycle -20 %": (0.8, 1.0),
    "cycle +20 %": (1.2, 1.0),
    "first green -20 %": (1.0, 0.8),
    "first green +20 %": (1.0, 1.2),
}


def perturbed(ratios: tuple[float, float], seeds: int = 24) -> dict[str, Floats]:
    """Time spent (veh h) by seed under each of `PERTURBATIONS`, at flows of `ratios` times saturation flow."""
    measured = saturation()
    flow_rates = (ratios[0] * measured.flow / 3600.0, ratios[1] * measured.flow / 3600.0)
    return {
        name: time_spent(webster(ratios, measured.lost_time, cycle_factor=cycle, split_factor=split), flow_rates, seeds)
        / 3600.0
        for name, (cycle, split) in PERTURBATIONS.items()
    }
