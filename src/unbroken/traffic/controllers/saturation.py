"""Saturation flow of an approach, measured as engineers do: a standing queue is let go and counted."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from unbroken.traffic.classes import VehicleClass
from unbroken.traffic.road_network import Link, Movement, Node, RoadNetwork, Signal
from unbroken.traffic.simulation import Simulation

START, END = (
    6.0,
    30.0,
)  # s after green: the fourth vehicle on, as in Highway Capacity Manual 2010, ch. 31, to the end of a long green


@lru_cache(maxsize=64)
def saturation_flow(
    classes: tuple[VehicleClass, VehicleClass],
    motorcycle_share: float,
    gamma: float | None = None,
    cell: float = 25.0,
    step: float = 0.6,
) -> float:
    """veh/s of one lane that discharges a standing queue of `motorcycle_share` motorcycles, on that grid (m, s)."""
    signal = Signal(phases=(("side",), ("queue",)), max_green=math.inf)
    network = RoadNetwork(
        links={"queue": Link(1500), "on": Link(500), "side": Link(100), "off": Link(100)},
        nodes={"stop": Node((Movement("queue", "on"), Movement("side", "off")), signal=signal)},
        origins=("queue", "side"),
        sinks={"on": math.inf, "off": math.inf},
        classes=classes,
        gamma=gamma,
        cell=cell,
        step=step,
    )
    simulation = Simulation(network)
    arrivals = np.zeros((2, 2, 1))
    arrivals[:, 0, 0] = np.array([motorcycle_share, 1 - motorcycle_share]) * 0.33
    simulation.set_demand(0, arrivals)
    _advance(simulation, 420.0)
    simulation.request([[1]])
    _advance(simulation, signal.clearance + START)
    face = simulation.layout.slots("queue").stop
    before, began = simulation.state.passed[0, :, face].sum(), simulation.time()
    _advance(simulation, END - START)
    return float((simulation.state.passed[0, :, face].sum() - before) / (simulation.time() - began))


def _advance(simulation: Simulation, duration: float) -> None:
    """About `duration` s, in whole steps."""
    simulation.advance(round(duration / simulation.network.step) * simulation.network.step)
