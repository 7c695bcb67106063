"""What traffic engineers measure, on small networks: saturation flow, capacity drop, delay at a signal, discharge of a red.

Each function builds its own network, runs it and returns a small record; flows in records are veh/h per lane, times s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unbroken.traffic.classes import CLASSES, VehicleClass
from unbroken.traffic.road_network import Link, Movement, Node, RoadNetwork, Signal
from unbroken.traffic.simulation import Simulation
from unbroken.traffic.single_link import simulate_link
from unbroken.traffic.verification.riemann import RiemannProblem

Floats = NDArray[np.float64]
HOUR = 3600.0


@dataclass(frozen=True)
class Grid:
    """Classes, cell length (m) and step (s) of an experiment."""

    classes: tuple[VehicleClass, VehicleClass] = CLASSES
    cell: float = 25.0
    step: float = 0.6

    def finer(self, factor: float) -> Grid:
        """The same with cells and steps shorter by `factor`."""
        return replace(self, cell=self.cell / factor, step=self.step / factor)


def cars(flow: float) -> Floats:
    """Constant demand of `flow` cars/s at the approach of `stop_line` and none at its cross street, for `set_demand`."""
    return np.array([[0.0, 0.0], [flow, 0.0]]).reshape(2, 2, 1)


def stop_line(grid: Grid, length: float) -> Simulation:
    """One lane of `length` m that ends at a signal: phase 0 is red for it, phase 1 green."""
    network = RoadNetwork(
        {"approach": Link(length), "beyond": Link(500.0), "cross": Link(100.0), "cross beyond": Link(100.0)},
        {
            "signal": Node(
                (Movement("approach", "beyond"), Movement("cross", "cross beyond")),
                signal=Signal((("cross",), ("approach",)), max_green=1e6),
            )
        },
        ("approach", "cross"),
        {"beyond": math.inf, "cross beyond": math.inf},
        classes=grid.classes,
        cell=grid.cell,
        step=grid.step,
    )
    return Simulation(network)


def show(simulation: Simulation, phase: int, until: float = math.inf) -> None:
    """Show `phase` from now to `until`, then the other one, both at once: a signal without lost time of its own."""
    state = simulation.state
    state.phases[0, :, 0] = (phase, 1 - phase)
    state.switch[0, :, 0] = until


@dataclass(frozen=True)
class Saturation:
    """Discharge of a standing queue. `time` and `vehicles` are the cumulative curve at the stop line since green."""

    flow: float
    lost_time: float
    queue_occupancy: float
    time: Floats
    vehicles: Floats


def saturation(grid: Grid | None = None) -> Saturation:
    """Cars queue at 600 veh/h for 420 s of red, then green: the line through the curve from 10 to 30 s gives both figures.

    The flow is its slope, start-up lost time where it meets zero, as field studies do it (Highway Capacity Manual 2010, ch. 31:
    from the fourth vehicle on).
    """
    grid = grid or Grid()
    simulation = stop_line(grid, 1500.0)
    simulation.set_demand(0, cars(600.0 / HOUR))
    show(simulation, 0)
    simulation.advance(420.0)
    occupancy = float(simulation.occupancy("approach")[-10:].mean())
    show(simulation, 1)
    face = simulation.layout.slots("approach").stop
    before = simulation.state.passed[0, :, face].sum()
    time, vehicles = [0.0], [0.0]
    for step in range(round(60.0 / grid.step)):
        simulation.advance(grid.step)
        time.append((step + 1) * grid.step)
        vehicles.append(float(simulation.state.passed[0, :, face].sum() - before))
    t, n = np.array(time), np.array(vehicles)
    slope, start = np.polyfit(t[(t > 10) & (t <= 30)], n[(t > 10) & (t <= 30)], 1)
    return Saturation(float(slope * HOUR), float(-start / slope), occupancy, t, n)


@dataclass(frozen=True)
class CapacityDrop:
    """Outflow of a merge before its queue and while it discharges; series by minute."""

    before: float
    discharge: float
    flow: Floats
    occupancy: Floats

    @property
    def drop(self) -> float:
        return 1.0 - self.discharge / self.before


def capacity_drop(grid: Grid | None = None) -> CapacityDrop:
    """A lane and a ramp of cars merge into one lane; demand rises over 50 min until a queue forms, and keeps it.

    `before` is the mean of the three best minutes, `discharge` that of ten minutes in which the queue stands.
    """
    grid = grid or Grid()
    network = RoadNetwork(
        {"main": Link(2000.0), "ramp": Link(300.0), "beyond": Link(1500.0)},
        {"merge": Node((Movement("main", "beyond"), Movement("ramp", "beyond")), priority={"main": 3.0, "ramp": 1.0})},
        ("main", "ramp"),
        {"beyond": math.inf},
        classes=grid.classes,
        cell=grid.cell,
        step=grid.step,
    )
    simulation = Simulation(network)
    main = np.interp(np.arange(90), [0, 10, 60], [0.2, 0.2, 0.55])
    demand = np.stack([main, np.full_like(main, 0.05)])
    simulation.set_demand(0, np.stack([np.zeros_like(demand), demand]))
    face = simulation.layout.slots("beyond").start
    vehicles, occupancy = [0.0], []
    for _ in range(90):
        simulation.advance(60.0)
        vehicles.append(float(simulation.state.passed[0, :, face].sum()))
        occupancy.append(float(simulation.occupancy("main")[-4:].mean()))
    flow = np.diff(vehicles) * 60.0
    return CapacityDrop(float(np.sort(flow)[-3:].mean()), float(flow[75:85].mean()), flow, np.array(occupancy))


def signal_delay(
    flow: float,
    cycle: float,
    green: float,
    grid: Grid | None = None,
    *,
    length: float = 1000.0,
    beyond: bool = True,
) -> float:
    """Mean control delay in s per vehicle: time spent over ten cycles or more with the signal, less that with green always.

    `flow` is in veh/s; 900 s of warm-up. Where `beyond` is False only time upstream of the stop line counts, as in Webster's
    formula; otherwise acceleration beyond it does too.
    """
    grid = grid or Grid()
    cycles = max(10, math.ceil(1800.0 / cycle))

    def spent(green_only: bool) -> float:
        simulation = stop_line(grid, length)
        simulation.set_demand(0, cars(flow))
        weights = simulation.layout.lane_length.copy()
        if not beyond:
            weights[simulation.layout.slots("approach").stop :] = 0.0
        start = 0.0
        for index in range(math.ceil(900.0 / cycle) + cycles):
            if index == math.ceil(900.0 / cycle):
                start = float((simulation.state.present[0] @ weights).sum())
            show(simulation, 1, math.inf if green_only else simulation.time() + green)
            simulation.advance(cycle)
        return float((simulation.state.present[0] @ weights).sum()) - start

    return (spent(False) - spent(True)) / (flow * cycles * cycle)


def uniform_delay(flow: float, cycle: float, green: float, saturation_flow: float) -> float:
    """Webster's first term, s per vehicle: arrivals and discharge at constant flows (veh/s), `green` effective.

    Webster, Traffic Signal Settings, Road Research Technical Paper 39 (1958).
    """
    return cycle * (1.0 - green / cycle) ** 2 / (2.0 * (1.0 - flow / saturation_flow))


@dataclass(frozen=True)
class DelayCase:
    """A signal plan at a degree of saturation, with the delay simulated and Webster's."""

    cycle: float
    green: float
    degree: float
    simulated: float
    webster: float


def uniform_delays(grid: Grid | None = None) -> list[DelayCase]:
    """Three plans at three degrees of saturation, with saturation flow and lost time as `saturation` measures them."""
    measured = saturation(grid)
    most = measured.flow / HOUR
    cases = []
    for cycle, green in ((90.0, 45.0), (60.0, 30.0), (90.0, 30.0)):
        effective = green - measured.lost_time
        for degree in (0.4, 0.6, 0.8):
            flow = degree * most * effective / cycle
            simulated = signal_delay(flow, cycle, green, grid, beyond=False)
            cases.append(DelayCase(cycle, green, degree, simulated, uniform_delay(flow, cycle, effective, most)))
    return cases


@dataclass(frozen=True)
class GridError:
    """Control delay (s per vehicle) at a flow (veh/h) on grids of `cells` (m), the last one the reference."""

    flow: float
    cells: tuple[float, ...]
    delays: tuple[float, ...]

    @property
    def errors(self) -> Floats:
        """Relative to the finest grid."""
        return np.asarray(self.delays[:-1]) / self.delays[-1] - 1.0


def grid_errors(
    grid: Grid | None = None,
    factors: tuple[float, ...] = (1.0, 2.0, 10.0),
    flow_rates: tuple[float, ...] = (400.0, 600.0, 800.0),
) -> list[GridError]:
    """Delay of a 45 s green in a 90 s cycle on grids finer by `factors`."""
    grid = grid or Grid()
    cells = tuple(grid.cell / factor for factor in factors)
    return [
        GridError(
            flow, cells, tuple(signal_delay(flow / HOUR, 90.0, 45.0, grid.finer(f), length=500.0) for f in factors)
        )
        for flow in flow_rates
    ]


@dataclass(frozen=True)
class RedLight:
    """A red on a road without relaxation: simulated and exact figures, as pairs. Speeds m/s, times s from the start of red."""

    tail_speed: tuple[float, float]
    clear_time: tuple[float, float]
    fan_error: float  # mean |rho - exact| over jam density, 20 s after green
    leaked: float  # vehicles over the stop line during red
    time: Floats
    deficit: Floats  # vehicles that would have passed without the red
    x: Floats
    history: Floats  # density by time and place, veh/m


def red_light(
    cell: float = 25.0, rho: float = 0.02, v: float = 12.0, red: float = 40.0, gamma: float = 1.0
) -> RedLight:
    """A stream of `rho` (veh/m) at `v` (m/s) meets 40 s of red in the middle of 4 km; one class, jam 0.14 veh/m, c = 16 m/s.

    Exact: the tail moves at the shock's speed toward the queue of density p^-1(w); the stop line discharges at capacity q_m from
    green on, until as many have passed as arrived: at red q_m / (q_m - q).
    """
    n = 2 * round(2000.0 / cell)
    x = np.asarray((np.arange(n) + 0.5) * cell - n * cell / 2, dtype=np.float64)
    problem = RiemannProblem((rho, v), (rho, 0.0), c=16.0, gamma=gamma)
    density, speed = np.full(n, rho), np.full(n, v)
    history, time, deficit = [density], [0.0], [0.0]
    for second in range(1, 121):
        reds = [(n // 2, 0.0, 1.0)] if second <= red else []
        density, speed = simulate_link(
            density,
            speed,
            dx=cell,
            duration=1.0,
            rho_max=0.14,
            c=16.0,
            gamma=gamma,
            inflow=(rho, v),
            signals=reds,
        )
        history.append(density)
        time.append(float(second))
        deficit.append(float((density[: n // 2] - rho).sum() * cell))
    t, missing, table = np.array(time), np.array(deficit), np.array(history)
    return RedLight(
        tail_speed=_tail_speed(problem, table, cell, red),
        clear_time=_clear_time(problem, t, missing, red),
        fan_error=_fan_error(problem, table, x, cell, red),
        leaked=float(abs(missing[round(red)] - rho * v * red)),
        time=t,
        deficit=missing,
        x=x,
        history=table,
    )


def _queue(problem: RiemannProblem) -> float:
    return float(problem.density(problem.w))


def _tail_speed(problem: RiemannProblem, table: Floats, cell: float, red: float) -> tuple[float, float]:
    """From 10 s after the beginning of red to its end, where density is halfway between the stream's and the queue's."""
    queue, (rho, v) = _queue(problem), problem.left
    half = table.shape[1] // 2
    last = round(red)
    halfway = table[:, :half] >= (queue + rho) / 2
    early, late = (_position(table[second, :half], halfway[second], cell, (queue + rho) / 2) for second in (10, last))
    return -(late - early) / (last - 10), -rho * v / (queue - rho)


def _position(rho: Floats, dense: NDArray[np.bool_], cell: float, level: float) -> float:
    """Distance (m) from the stop line at which density rises through `level`, linear between cell centres."""
    first = int(np.argmax(dense))
    part = (level - rho[first - 1]) / (rho[first] - rho[first - 1])
    return float((len(rho) - first + 0.5 - part) * cell)


def _clear_time(problem: RiemannProblem, t: Floats, deficit: Floats, red: float) -> tuple[float, float]:
    rho, v = problem.left
    rho_most = float(problem.density(problem.w / (1 + problem.gamma)))
    most = rho_most * (problem.w - problem.pressure(rho_most))
    exact = red * most / (most - rho * v)
    inside = (t > red + 0.2 * (exact - red)) & (t < red + 0.8 * (exact - red))
    slope, start = np.polyfit(t[inside], deficit[inside], 1)
    return float(-start / slope), exact


def _fan_error(problem: RiemannProblem, table: Floats, x: Floats, cell: float, red: float) -> float:
    """Near the stop line the queue's discharge is the fan into vacuum until the road ahead is reached."""
    queue = RiemannProblem((_queue(problem), 0.0), (0.0, 0.0), c=problem.c, gamma=problem.gamma)
    near = np.abs(x) < 100.0
    faces = np.append(x - cell / 2, x[-1] + cell / 2)
    exact = queue.averages(faces, 20.0)
    return float(np.abs(table[round(red) + 20] - exact)[near].mean() / problem.rho_max)


@dataclass(frozen=True)
class FundamentalDiagram:
    """Equilibrium of one class: occupancy, flow by the model's formula and flow measured on a ring, veh/h per lane."""

    occupancy: Floats
    formula: Floats
    measured: Floats


def fundamental_diagram(class_index: int, grid: Grid | None = None, points: int = 27) -> FundamentalDiagram:
    """Uniform traffic of one class (0 motorcycles, 1 cars) on a ring of two links, relaxed for 120 s, then counted for 60 s."""
    grid = grid or Grid()
    vehicle = grid.classes[class_index]
    network = RoadNetwork(
        {"there": Link(500.0), "back": Link(500.0)},
        {"one": Node((Movement("there", "back"),)), "two": Node((Movement("back", "there"),))},
        (),
        {},
        classes=grid.classes,
        cell=grid.cell,
        step=grid.step,
    )
    simulation = Simulation(network, points)
    x = np.linspace(0.0, 1.0, points)
    density = x * vehicle.jam_density()
    cells = simulation.layout.link_of_slot >= 0
    simulation.state.cells[:, class_index, cells] = density[:, None]
    # the speed that drivers keep at this density, so that only the law's value and the scheme's flow are compared
    w = vehicle.equilibrium_speed(x) + vehicle.pressure * x
    simulation.state.cells[:, 2 + class_index, cells] = (density * w)[:, None]
    simulation.advance(120.0)
    face = simulation.layout.slots("there").stop
    before = simulation.state.passed[:, class_index, face].copy()
    simulation.advance(60.0)
    measured = (simulation.state.passed[:, class_index, face] - before) * 60.0
    return FundamentalDiagram(
        x * vehicle.max_occupancy, density * vehicle.equilibrium_speed(x) * HOUR, np.asarray(measured)
    )
