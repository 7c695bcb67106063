"""Signals that react: actuated by gaps, and storage-aware max-pressure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unbroken.errors import ConfigurationError
from unbroken.traffic.controllers.base import Remembering, is_due
from unbroken.traffic.detectors import Detectors, Region
from unbroken.traffic.layout import Layout
from unbroken.traffic.scenario import DECISION, INTERVAL, Scenario
from unbroken.traffic.simulation import Simulation

Floats = NDArray[np.float64]
STOP_LINE = 50.0  # m before the stop line that actuated signals watch


@dataclass(frozen=True)
class Approaches:
    """Links that arrive at signals, in the order of signals and of each node's links."""

    links: tuple[str, ...]
    signal: NDArray[np.int64]  # index of the signal of each
    opened: Floats  # (signals, phases, approaches): 1 where a phase opens the link; phases padded with zeros

    @classmethod
    def of(cls, layout: Layout) -> Approaches:
        if not layout.signals:
            raise ConfigurationError("the network has no signals")
        nodes = [layout.network.nodes[name] for name in layout.signals]
        pairs = [(s, link) for s, node in enumerate(nodes) for link in node.arriving]
        opened = np.zeros((len(nodes), max((len(p) for p in layout.phases), default=0), len(pairs)))
        for s, phases in enumerate(layout.phases):
            for p, phase in enumerate(phases):
                for index, (owner, link) in enumerate(pairs):
                    opened[s, p, index] = float(owner == s and link in phase)
        return cls(tuple(link for _, link in pairs), np.array([s for s, _ in pairs], dtype=np.int64), opened)


class Actuated(Remembering):
    """Green goes on while vehicles come, up to the maximal green; then the next phase in turn.

    A phase gaps out when no link that it opens has vehicles moving or standing within 50 m of the stop line: occupancy below `gap`.
    Skips nothing: a phase without demand shows its minimal green.
    """

    def __init__(self, scenario: Scenario, gap: float = 0.05) -> None:
        layout = Layout(scenario.network)
        self._approaches = Approaches.of(layout)
        lengths = [scenario.network.links[link].length for link in self._approaches.links]
        regions = [Region(link, n - STOP_LINE, n) for link, n in zip(self._approaches.links, lengths, strict=True)]
        self._detectors = Detectors(layout, regions)
        self._gap = gap
        self._n_phases = np.array([len(phases) for phases in layout.phases])

    def act(self, simulation: Simulation) -> None:
        """Extend or switch."""
        self._detectors.look(simulation)
        phases = simulation.phases()
        opened = self._approaches.opened[np.arange(phases.shape[1]), phases]  # (B, signals, approaches)
        busiest = (opened * self._detectors.occupancy[:, None, :]).max(axis=2)
        switch = (busiest < self._gap) | simulation.must_switch(INTERVAL)
        simulation.request(np.where(switch & simulation.may_switch(), (phases + 1) % self._n_phases, phases))


class MaxPressure(Remembering):
    """At each decision the phase with the greatest pressure: sum over its links of s (x - sum over exits of share x_exit).

    P. Varaiya, Transp. Res. C 36:177 (2013). Storage-aware: x is the occupied part of a link's storage (vehicle lengths over lane
    metres), and a movement into an exit fuller than `full` has no pressure; counts alone fail on finite links. A phase must win
    by `margin`.
    """

    def __init__(self, scenario: Scenario, full: float = 0.8, margin: float = 0.05, decision: float = DECISION) -> None:
        if not (decision >= INTERVAL and math.isclose(decision % INTERVAL, 0.0)):
            raise ConfigurationError(f"decision must be a multiple of {INTERVAL:g} s, not {decision:g} s")
        layout = Layout(scenario.network)
        network = scenario.network
        self._approaches = Approaches.of(layout)
        arriving = self._approaches.links
        leaving = sorted({link for name in layout.signals for link in network.nodes[name].leaving})
        self._detectors = Detectors(
            layout, [Region(link, 0.0, network.links[link].length) for link in (*arriving, *leaving)]
        )
        self._share = np.zeros((len(arriving), len(leaving)))
        for name in layout.signals:
            for m in network.nodes[name].movements:
                self._share[arriving.index(m.origin), leaving.index(m.destination)] = sum(m.share) / 2
        self._lanes = np.array([float(network.links[link].lanes) for link in arriving])
        self._full, self._margin, self._decision = full, margin, decision

    def act(self, simulation: Simulation) -> None:
        """Decide every `decision` s."""
        if not is_due(simulation, self._decision):
            return
        self._detectors.look(simulation)
        n = len(self._approaches.links)
        stored = self._detectors.occupancy
        ahead = np.where(stored[:, n:] > self._full, 2.0, stored[:, n:])
        pressure = self._lanes * np.maximum(0.0, stored[:, :n] - ahead @ self._share.T)
        gain = np.einsum("spa,ba->bsp", self._approaches.opened, pressure)
        phases = simulation.phases()
        np.put_along_axis(gain, phases[:, :, None], np.take_along_axis(gain, phases[:, :, None], 2) + self._margin, 2)
        best = gain.argmax(axis=2)
        forced = simulation.must_switch(self._decision) & (best == phases)
        np.put_along_axis(gain, phases[:, :, None], -np.inf, 2)
        simulation.request(np.where(forced, gain.argmax(axis=2), best))
