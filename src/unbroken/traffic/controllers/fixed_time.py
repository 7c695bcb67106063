"""Fixed-time signals: Webster's cycle and splits, one cycle for the corridor, offsets for its main direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unbroken.errors import ConfigurationError
from unbroken.traffic.controllers.base import Remembering
from unbroken.traffic.controllers.saturation import saturation_flow
from unbroken.traffic.layout import DEMAND_PERIOD, Layout
from unbroken.traffic.road_network import Signal
from unbroken.traffic.scenario import INTERVAL, Scenario
from unbroken.traffic.simulation import Simulation

Floats = NDArray[np.float64]
SHORTEST_CYCLE, LONGEST_CYCLE = (
    40.0,
    120.0,
)  # s; longer cycles are not used in practice (Highway Capacity Manual 2010, ch. 18)
START_UP = 1.0  # s of start-up lost time, what the model shows


@dataclass(frozen=True)
class Plan:
    """One cycle for all signals (s); of each signal the display of its phases (green to the next green, s) and its offset (s)."""

    cycle: float
    display: tuple[tuple[float, ...], ...]
    offsets: tuple[float, ...]


class FixedTime(Remembering):
    """Runs a plan by the clock."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._starts = [np.concatenate([[0.0], np.cumsum(display)[:-1]]) for display in plan.display]

    def act(self, simulation: Simulation) -> None:
        """Request the next phase at its exact time when it is due within the coming interval."""
        now = float(simulation.times()[0])
        wanted, at = [], []
        for starts, offset in zip(self._starts, self.plan.offsets, strict=True):
            ahead = (now - offset) % self.plan.cycle
            due = (starts - ahead) % self.plan.cycle
            soon = int(np.argmin(due))
            coming = due[soon] < INTERVAL
            current = int(np.searchsorted(starts, ahead + 1e-9, side="right") - 1)
            wanted.append(soon if coming else current)
            at.append(now + due[soon] if coming else now)
        simulation.request(np.array(wanted), np.array(at))


def flows(scenario: Scenario) -> Floats:
    """Flow of each class on each link in veh/s at the scenario's peak hour, shape (2, links): demand carried on by turning shares.

    The peak hour is the 3,600 s with most arrivals.
    """
    layout = Layout(scenario.network)
    periods = round(scenario.horizon.demand_end / DEMAND_PERIOD)
    arriving = np.zeros((2, len(layout.links), periods))
    for origin, profile in scenario.demand.profiles.items():
        arriving[:, layout.links.index(origin)] = profile.means(periods, DEMAND_PERIOD)
    width = min(round(3600 / DEMAND_PERIOD), periods)
    first = int(np.argmax(np.convolve(arriving.sum(axis=(0, 1)), np.ones(width), "valid")))
    peak = arriving[:, :, first : first + width].mean(axis=2)
    upstream = np.swapaxes(layout.onward, 1, 2)
    return np.asarray(np.linalg.solve(np.eye(len(layout.links)) - upstream, peak[:, :, None])[:, :, 0])


def critical_ratios(scenario: Scenario) -> list[list[float]]:
    """Of each signal and phase, the greatest flow ratio (flow / saturation flow) of the links that it opens."""
    network = scenario.network
    links = list(network.links)
    carried = flows(scenario)
    ratios = []
    for node in network.nodes.values():
        if node.signal is None:
            continue
        own = []
        for phase in node.signal.phases:
            of_links = []
            for link in phase:
                flow = carried[:, links.index(link)]
                share = round(float(flow[0] / max(flow.sum(), 1e-12)), 2)
                slower = sum(
                    np.dot(m.share, flow) / max(flow.sum(), 1e-12) / m.saturation
                    for m in node.movements
                    if m.origin == link
                )
                lane = saturation_flow(network.classes, share, network.gamma, network.cell, network.step)
                of_links.append(float(flow.sum() * slower / (lane * network.links[link].lanes)))
            own.append(max(of_links, default=0.0))
        ratios.append(own)
    return ratios


def webster(scenario: Scenario, speed: float | None = None) -> Plan:
    """Webster's plan: C0 = (1.5 L + 5) / (1 - Y) of the most loaded signal, g_i = (y_i / Y) (C0 - L) at each.

    F. V. Webster, Traffic signal settings, Road Research Technical Paper 39 (1958). L is the time lost in a cycle: clearance less
    the yellow that is used, and start-up. Flows are those of the scenario's peak hour. Offsets follow the first phase's links at
    `speed` (m/s; None: all signals start together).
    """
    network = scenario.network
    signals = [node.signal for node in network.nodes.values() if node.signal is not None]
    ratios = critical_ratios(scenario)
    if not signals:
        raise ConfigurationError("the network has no signals")
    cycle = max(_cycle(signal, own) for signal, own in zip(signals, ratios, strict=True))
    most = min(sum(_longest(signal)) for signal in signals)
    least = max(sum(_shortest(signal)) for signal in signals)
    cycle = max(least, min(most, cycle))
    display = tuple(_display(cycle, signal, own) for signal, own in zip(signals, ratios, strict=True))
    return Plan(cycle, display, tuple(_offsets(scenario, speed) % cycle))


def _lost(signal: Signal) -> float:
    """s that each phase loses."""
    return signal.clearance - signal.end_gain + START_UP


def _shortest(signal: Signal) -> list[float]:
    return [signal.min_green + signal.clearance] * len(signal.phases)


def _longest(signal: Signal) -> list[float]:
    return [signal.max_green + signal.clearance] * len(signal.phases)


def _cycle(signal: Signal, ratios: list[float]) -> float:
    """Webster's cycle of one signal, between the shortest and the longest that are used."""
    lost, total = len(ratios) * _lost(signal), sum(ratios)
    wanted = (1.5 * lost + 5) / (1 - total) if total < 1 else LONGEST_CYCLE
    return max(SHORTEST_CYCLE, min(LONGEST_CYCLE, wanted))


def tuned_plan(scenario: Scenario, offset_speed_kmh: float | None = None) -> Plan:
    """Webster's plan; no speed: all signals start together."""
    return webster(scenario, None if offset_speed_kmh is None else offset_speed_kmh / 3.6)


def _display(cycle: float, signal: Signal, ratios: list[float]) -> tuple[float, ...]:
    """Green plus clearance of each phase: effective green in proportion to its flow ratio, within minimal and maximal green."""
    lost, weights = _lost(signal), np.array(ratios) if sum(ratios) > 0 else np.ones(len(ratios))
    display = (cycle - lost * len(ratios)) * weights / weights.sum() + lost
    low, high = np.array(_shortest(signal)), np.array(_longest(signal))
    for _ in range(len(ratios) + 1):
        display = np.clip(display, low, high)
        missing = cycle - display.sum()
        free = display < high if missing > 0 else display > low
        if abs(missing) < 1e-9 or not free.any():
            break
        display = display + np.where(free, missing / free.sum(), 0.0)
    return tuple(float(value) for value in display)


def _offsets(scenario: Scenario, speed: float | None) -> Floats:
    """s by which each signal follows the one upstream along links that the first phases open and that come from a signal."""
    network = scenario.network
    names = [name for name, node in network.nodes.items() if node.signal is not None]
    offsets = np.zeros(len(names))
    if speed is None:
        return offsets
    for index, name in enumerate(names):
        signal = network.nodes[name].signal
        assert signal is not None
        for link in signal.phases[0]:
            upstream = [n for n in names[:index] if link in network.nodes[n].leaving]
            if upstream:
                offsets[index] = offsets[names.index(upstream[0])] + network.links[link].length / speed
                break
    return offsets
