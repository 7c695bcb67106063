"""From a road network to the arrays of the scheme, and the names of their indices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from unbroken.traffic.road_network import Node, RoadNetwork
from unbroken.traffic.scheme.law import Law, make_law
from unbroken.traffic.scheme.network import Network

Floats = NDArray[np.float64]
DEMAND_PERIOD = 60.0  # s in which arrivals are even


@dataclass(frozen=True)
class Layout:
    """Where each link, node, origin, sink and meter lies in the arrays, in the order of the network's mappings."""

    network: RoadNetwork

    @cached_property
    def links(self) -> tuple[str, ...]:
        return tuple(self.network.links)

    @cached_property
    def signals(self) -> tuple[str, ...]:
        """Nodes with a traffic light."""
        return tuple(name for name, node in self.network.nodes.items() if node.signal is not None)

    @cached_property
    def n_cells(self) -> NDArray[np.int64]:
        return np.array([self.network.cells_of(link) for link in self.network.links.values()], dtype=np.int64)

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Slot of the first cell of each link."""
        return 1 + np.concatenate([[0], np.cumsum(self.n_cells + 2)[:-1]]).astype(np.int64)

    @cached_property
    def n_slots(self) -> int:
        return int((self.n_cells + 2).sum())

    @cached_property
    def link_of_slot(self) -> NDArray[np.int64]:
        """Index of the link of each slot; -1 at pads."""
        owner = np.full(self.n_slots, -1, dtype=np.int64)
        for index, (first, n) in enumerate(zip(self.first, self.n_cells, strict=True)):
            owner[first : first + n] = index
        return owner

    @cached_property
    def dx(self) -> Floats:
        """Cell length of each slot, m; 0 at pads."""
        lengths = np.array([link.length for link in self.network.links.values()]) / self.n_cells
        return np.where(self.link_of_slot >= 0, lengths[self.link_of_slot], 0.0)

    @cached_property
    def lane_length(self) -> Floats:
        """Lanes times cell length of each slot, m: vehicles in a cell per density; 0 at pads."""
        lanes = np.array([float(link.lanes) for link in self.network.links.values()])
        return self.dx * np.where(self.link_of_slot >= 0, lanes[self.link_of_slot], 0.0)

    @cached_property
    def speed_limit(self) -> Floats:
        """m/s of each slot; infinite where a link has none, and at pads."""
        limits = np.array([float(link.speed_limit) for link in self.network.links.values()])
        return np.where(self.link_of_slot >= 0, limits[self.link_of_slot], np.inf)

    @cached_property
    def free_speed(self) -> Floats:
        """m/s of each class in each slot on an empty road, shape (2, slots)."""
        return np.asarray(np.minimum(np.array([c.free_speed for c in self.network.classes])[:, None], self.speed_limit))

    @cached_property
    def free_travel_time(self) -> Floats:
        """s from the beginning of each link to a sink on empty roads, mean over movements, shape (2, links)."""
        links = self.network.links.values()
        own = [[link.length / min(c.free_speed, link.speed_limit) for link in links] for c in self.network.classes]
        return np.linalg.solve(np.eye(len(self.links)) - self.onward, np.array(own)[:, :, None])[:, :, 0]

    @cached_property
    def onward(self) -> Floats:
        """Share of each class on a link that goes on to each other link, shape (2, links, links)."""
        shares = np.zeros((2, len(self.links), len(self.links)))
        for node in self.network.nodes.values():
            for m in node.movements:
                shares[:, self.links.index(m.origin), self.links.index(m.destination)] += m.share
        return shares

    def slots(self, link: str) -> slice:
        """The cells of a link, upstream first."""
        index = self.links.index(link)
        return slice(int(self.first[index]), int(self.first[index] + self.n_cells[index]))

    @cached_property
    def law(self) -> Law:
        classes, gamma = self.network.classes, self.network.gamma
        return make_law(
            c=np.array([c.pressure for c in classes]),
            lengths=np.array([c.length for c in classes]),
            greatest=np.array([c.max_occupancy for c in classes]),
            w_free=np.array([c.free_speed for c in classes]),
            w_law=np.array([c.w_law(gamma) for c in classes]),
            share=np.array([-np.expm1(-self.network.step / c.relaxation_time) for c in classes]),
            gamma=gamma,
        )

    @cached_property
    def arrays(self) -> Network:
        network = self.network
        nodes = list(network.nodes.values())
        dx = np.where(self.dx > 0, self.dx, 1.0)
        turns = [_turns(node) for node in nodes]
        ahead, behind = self._neighbours()
        return Network(
            first=self.first,
            last=self.first + self.n_cells - 1,
            lanes=np.array([float(link.lanes) for link in network.links.values()]),
            ahead=ahead,
            behind=behind,
            approach=self._approach(),
            dt_dx=np.where(self.dx > 0, network.step / dx, 0.0),
            in_start=_starts([len(node.arriving) for node in nodes]),
            in_link=self._indices([link for node in nodes for link in node.arriving]),
            out_start=_starts([len(node.leaving) for node in nodes]),
            out_link=self._indices([link for node in nodes for link in node.leaving]),
            turn_start=_starts([turn.shape[1] for turn in turns])[:-1],
            share=np.concatenate([*turns, np.zeros((2, 0))], axis=1),
            priority=np.array(
                [node.priority.get(a, 1.0) * network.links[a].lanes for node in nodes for a in node.arriving],
                dtype=np.float64,
            ),
            factor=np.array([_factors(node, a) for node in nodes for a in node.arriving]).reshape(-1, 2).T.copy(),
            meter=np.array(
                [network.meters.index(a) if a in network.meters else -1 for node in nodes for a in node.arriving],
                dtype=np.int64,
            ),
            signal=np.array(
                [self.signals.index(name) if name in self.signals else -1 for name in network.nodes], dtype=np.int64
            ),
            phase_start=_starts([len(phases) for phases in self.phases])[:-1],
            green=self._green(),
            origin_link=self._indices(network.origins),
            sink_link=self._indices(network.sinks),
            sink_capacity=np.array(list(network.sinks.values()), dtype=np.float64),
            dt=float(network.step),
            period=DEMAND_PERIOD,
        )

    @cached_property
    def phases(self) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """Of each signal, the links with green in each phase."""
        return tuple(signal.phases for signal in (self.network.nodes[name].signal for name in self.signals) if signal)

    def _neighbours(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each link, the one that most vehicles go on to and the one that most come from (share x lanes); -1 at the ends."""
        ahead, behind = (np.full(len(self.links), -1, dtype=np.int64) for _ in range(2))
        for node in self.network.nodes.values():
            weight = {
                (m.origin, m.destination): sum(m.share) * self.network.links[m.origin].lanes for m in node.movements
            }
            for origin, destination in sorted(weight, key=lambda pair: weight[pair]):
                ahead[self.links.index(origin)] = self.links.index(destination)
                behind[self.links.index(destination)] = self.links.index(origin)
        return ahead, behind

    def _approach(self) -> NDArray[np.int64]:
        approaches = [link for node in self.network.nodes.values() for link in node.arriving]
        return np.array([approaches.index(link) if link in approaches else -1 for link in self.links], dtype=np.int64)

    def _green(self) -> Floats:
        approaches = [(name, link) for name, node in self.network.nodes.items() for link in node.arriving]
        rows = [
            [float(node == name and link in phase) for node, link in approaches]
            for name, phases in zip(self.signals, self.phases, strict=True)
            for phase in phases
        ]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(approaches))

    def _indices(self, names: object) -> NDArray[np.int64]:
        return np.array([self.links.index(name) for name in names], dtype=np.int64)  # type: ignore[attr-defined]


def _starts(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _turns(node: Node) -> Floats:
    """Shares of both classes, approach by exit."""
    table = np.zeros((2, len(node.arriving), len(node.leaving)))
    for m in node.movements:
        table[:, node.arriving.index(m.origin), node.leaving.index(m.destination)] = m.share
    return table.reshape(2, -1)


def _factors(node: Node, link: str) -> tuple[float, float]:
    """Capacity of an approach over that of its lanes: harmonic mean of its movements' saturation (shared lanes)."""
    own = [m for m in node.movements if m.origin == link]
    return tuple(1.0 / sum(m.share[k] / m.saturation for m in own) for k in range(2))  # type: ignore[return-value]
