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
    classes: tuple[VehicleClass, VehicleClass], motorcycle_share: float, gamma: float | None = None
) -> float:
    """veh/s of one lane that discharges a standing queue of `motorcycle_share` motorcycles."""
    signal = Signal(phases=(("side",), ("queue",)), max_green=math.inf)
    network = RoadNetwork(
        links={"queue": Link(1500), "on": Link(500), "side": Link(100), "off": Link(100)},
        nodes={"stop": Node((Movement("queue", "on"), Movement("side", "off")), signal=signal)},
        origins=("queue", "side"),
        sinks={"on": math.inf, "off": math.inf},
        classes=classes,
        gamma=gamma,
    )
    simulation = Simulation(network)
    arrivals = np.zeros((2, 2, 1))
    arrivals[:, 0, 0] = np.array([motorcycle_share, 1 - motorcycle_share]) * 0.33
    simulation.set_demand(0, arrivals)
    simulation.advance(420.0)
    simulation.request([[1]])
    simulation.advance(signal.clearance + 0.4 + START - 0.0)  # 5.4 s: a multiple of the step
    face = simulation.layout.slots("queue").stop
    before = simulation.state.passed[0, :, face].sum()
    simulation.advance(END - START)
    return float((simulation.state.passed[0, :, face].sum() - before) / (END - START))
