"""Small networks that tests share."""

import math

import numpy as np

from unbroken.traffic import Link, Movement, Node, RoadNetwork, Signal, Simulation

CROSSING = Signal(phases=(("west",), ("north",)), min_green=7.0, max_green=60.0)


def crossing(signal=CROSSING, **options):
    """Two one-way streets that cross at a signal, one lane each."""
    return RoadNetwork(
        links={"west": Link(500), "east": Link(500), "north": Link(500), "south": Link(500)},
        nodes={"x": Node((Movement("west", "east"), Movement("north", "south")), signal=signal)},
        origins=("west", "north"),
        sinks={"east": math.inf, "south": math.inf},
        **options,
    )


def simulation_of(network, flows, batch=1):
    """A simulation with the same constant flows (veh/s of each class, by origin) in every copy."""
    simulation = Simulation(network, batch)
    demand = np.array([[[flows[origin][k]] for origin in network.origins] for k in range(2)], dtype=float)
    for b in range(batch):
        simulation.set_demand(b, demand)
    return simulation
