"""The corridor of the traffic benchmarks: 10 km in 20 links of 500 m, one lane, cars only, a fixed-time signal at each inner node.

The signals have no cross streets unless asked for: their second phase opens nothing. All simulators get the same green window.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from unbroken.traffic import CAR, Link, Movement, Node, RoadNetwork, Signal, Simulation
from unbroken.traffic.detectors import Detectors, Region

LINKS = 20
LENGTH = 500.0
DECISION = 15.0
CYCLE = 60.0
GREEN_DECISIONS = 3  # of the four in a cycle
FLOW = 800 / 3600  # veh/s, 64 % of what the signals let through
CROSS_FLOW = 180 / 3600
SIGNAL = Signal(((), ()))
OPENS = SIGNAL.clearance  # s after the decision for green
CLOSES = GREEN_DECISIONS * DECISION + SIGNAL.end_gain


def offset(node: int) -> float:
    """s by which a node's cycle is late: half a cycle at every other node, about the travel time."""
    return 30.0 * (node % 2)


def network(*, cross: bool = False, lights: bool = True, links: int = LINKS, refine: int = 1) -> RoadNetwork:
    """The corridor; `refine` times finer than the default grid of 25 m and 0.6 s."""
    roads = {f"main{i}": Link(LENGTH) for i in range(links)}
    nodes, origins, sinks = {}, ["main0"], {f"main{links - 1}": math.inf}
    for i in range(links - 1):
        movements = [Movement(f"main{i}", f"main{i + 1}")]
        other: tuple[str, ...] = ()
        if cross:
            roads |= {f"in{i}": Link(100.0), f"out{i}": Link(100.0)}
            movements.append(Movement(f"in{i}", f"out{i}"))
            origins.append(f"in{i}")
            sinks[f"out{i}"] = math.inf
            other = (f"in{i}",)
        nodes[f"node{i}"] = Node(tuple(movements), signal=Signal(((f"main{i}",), other)) if lights else None)
    return RoadNetwork(roads, nodes, tuple(origins), sinks, cell=25.0 / refine, step=0.6 / refine)


def simulation(batch: int = 1, flow: float = FLOW, motorcycles: float = 0.0, **options: bool | int) -> Simulation:
    """The corridor with constant demand, empty at time 0; `motorcycles` is their share of the vehicles that enter the corridor."""
    made = Simulation(network(**options), batch)  # type: ignore[arg-type]
    demand = np.zeros((2, len(made.network.origins), 1))
    demand[1] = CROSS_FLOW
    demand[:, 0, 0] = flow * motorcycles, flow * (1.0 - motorcycles)
    for b in range(batch):
        made.set_demand(b, demand)
    return made


@functools.cache
def _plan_at(moment: float, signals: int) -> NDArray[np.int64]:
    starts = np.array([offset(i) for i in range(signals)])
    return ((moment - starts) % CYCLE >= GREEN_DECISIONS * DECISION - 1e-6).astype(np.int64)


def plan(time: float, signals: int) -> NDArray[np.int64]:
    """The phase of each signal in the decision that begins at `time`: 0 is green for the corridor."""
    return _plan_at(round(time % CYCLE, 6), signals)


def detectors(made: Simulation) -> Detectors:
    """One over each link."""
    return Detectors(made.layout, [Region(name, 0.0, link.length) for name, link in made.network.links.items()])


def decide(made: Simulation, seen: Detectors) -> tuple[NDArray[np.float64], ...]:
    """One decision of every copy, as an environment makes it: request phases, advance 15 s, observe all links."""
    made.request(plan(made.time(), len(made.layout.signals)))
    made.advance(DECISION)
    seen.look(made)
    return seen.occupancy, seen.speed, seen.queued


def run(made: Simulation, seconds: float) -> None:
    """Decide for `seconds` of simulated time."""
    seen = detectors(made)
    for _ in range(round(seconds / DECISION)):
        decide(made, seen)


def travel_time(*, lights: bool, warm: float, span: float, refine: int = 1, flow: float = FLOW) -> float:
    """Mean travel time in s at constant demand, waiting to enter included: vehicles present over flow (Little's law)."""
    made = simulation(flow=flow, lights=lights, refine=refine)
    run(made, warm)
    before = _time_spent(made)
    run(made, span)
    return float((_time_spent(made) - before) / (flow * span))


def _time_spent(made: Simulation) -> float:
    return float(made.state.present[0, 1] @ made.layout.lane_length)


def free_time() -> float:
    """Travel time of a car alone, s."""
    return LINKS * LENGTH / CAR.free_speed
