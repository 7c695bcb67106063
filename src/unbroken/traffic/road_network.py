"""A road network as plain values: links, nodes with movements and signals, origins, sinks. SI units; checked when it is made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from unbroken.traffic.checking import require
from unbroken.traffic.classes import CLASSES, VehicleClass

Pair = tuple[float, float]  # motorcycles, cars


@dataclass(frozen=True)
class Link:
    """A stretch of road with the same number of lanes (`length` in m, `speed_limit` in m/s)."""

    length: float
    lanes: float = 1
    speed_limit: float = math.inf

    def __post_init__(self) -> None:
        require(self.length > 0 and math.isfinite(self.length), f"a link's length must be above 0 m, not {self.length}")
        require(self.lanes > 0 and math.isfinite(self.lanes), f"a link's lanes must be above 0, not {self.lanes}")
        require(self.speed_limit > 0, f"a link's speed limit must be above 0 m/s, not {self.speed_limit}")


@dataclass(frozen=True)
class Movement:
    """From one link to another: the share of each class on `origin` that takes it, and how much slower than straight on it
    discharges.

    `saturation` is the movement's saturation flow over that of the lanes (1 for straight on; turns less).
    """

    origin: str
    destination: str
    share: Pair = (1.0, 1.0)
    saturation: float = 1.0


@dataclass(frozen=True)
class Signal:
    """A traffic light. Each phase names the links that have green; times in s.

    After a change vehicles pass for `end_gain` s of the yellow (2 s: Highway Capacity Manual 2010, ch. 18), the next phase opens
    after yellow and all-red. Links with green in both phases stay open. `max_green` bounds a phase while another has to wait.
    """

    phases: tuple[tuple[str, ...], ...]
    yellow: float = 3.0
    all_red: float = 2.0
    min_green: float = 7.0
    max_green: float = 75.0
    end_gain: float = 2.0

    @property
    def clearance(self) -> float:
        """s from the end of one green to the beginning of the next."""
        return self.yellow + self.all_red


@dataclass(frozen=True)
class Node:
    """Where links meet. `priority` is by arriving link (1 where not named); a merge shares short supply by priority x lanes."""

    movements: tuple[Movement, ...]
    priority: Mapping[str, float] = field(default_factory=dict)
    signal: Signal | None = None

    @property
    def arriving(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(movement.origin for movement in self.movements))

    @property
    def leaving(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(movement.destination for movement in self.movements))


@dataclass(frozen=True)
class RoadNetwork:
    """Links by name, the nodes that join them, where vehicles come in and go out.

    `origins` are links fed by a vertical queue (it keeps what does not fit); `sinks` are links that vehicles leave, with the
    capacity in veh/s; `meters` are links whose end lets a settable flow pass. `cell` is the wanted cell length in m, `step` the
    time step in s.

    Raises:
        ConfigurationError: links that begin or end nowhere or twice, shares that do not sum to 1, signals or meters of links
            that are not there, a step too long for the cells.
    """

    links: Mapping[str, Link]
    nodes: Mapping[str, Node]
    origins: tuple[str, ...]
    sinks: Mapping[str, float]
    meters: tuple[str, ...] = ()
    classes: tuple[VehicleClass, VehicleClass] = CLASSES
    cell: float = 25.0
    step: float = 0.6
    gamma: float | None = None

    def __post_init__(self) -> None:
        require(bool(self.links), "the network has no links")
        for name, node in self.nodes.items():
            _check_node(name, node)
        self._check_ends()
        self._check_step()

    def _check_ends(self) -> None:
        used = chain(self.origins, self.sinks, self.meters, *(n.arriving + n.leaving for n in self.nodes.values()))
        unknown = sorted(set(used) - set(self.links))
        require(not unknown, f"unknown link {', '.join(unknown)}: links are {', '.join(self.links)}")
        begins = Counter(chain(self.origins, *(node.leaving for node in self.nodes.values())))
        ends = Counter(chain(self.sinks, *(node.arriving for node in self.nodes.values())))
        for link in self.links:
            for word, places, way_out in (("begins", begins, "origin"), ("ends", ends, "sink")):
                require(
                    places[link] > 0,
                    f"link {link} {word} nowhere: give it a node or make it an {way_out}".replace("an sink", "a sink"),
                )
                require(
                    places[link] == 1, f"link {link} {word} at {places[link]} nodes, origins or sinks: one is needed"
                )
        for link, times in Counter(self.meters).items():
            require(times == 1, f"meters: {link} is named twice")
        for link in self.meters:
            require(link not in self.sinks, f"meter at link {link}: it ends in a sink, a meter needs a node")
        for link, capacity in self.sinks.items():
            require(capacity >= 0, f"sink {link}: its capacity must be at least 0, not {capacity}")

    def _check_step(self) -> None:
        require(self.cell > 0 and self.step > 0, "cell and step must be above 0")
        fastest = max(c.pressure * max(1.0, self.gamma or 1.0) for c in self.classes)
        for name, link in self.links.items():
            dx = link.length / self.cells_of(link)
            longest = 0.5 * dx / fastest
            require(
                self.step <= longest,
                f"link {name}: a step of {self.step:g} s is too long for cells of {dx:.3g} m (at most {longest:.3g} s); "
                "shorten the step or lengthen the link",
            )

    def cells_of(self, link: Link) -> int:
        """How many equal cells a link gets: none shorter than `cell` unless the link itself is."""
        return max(1, math.floor(link.length / self.cell + 1e-9))


def _check_node(name: str, node: Node) -> None:
    require(bool(node.movements), f"node {name} has no movements")
    pairs = Counter((m.origin, m.destination) for m in node.movements)
    for (origin, destination), times in pairs.items():
        require(times == 1, f"node {name}: the movement {origin} to {destination} is given {times} times")
    for m in node.movements:
        require(
            all(0 <= s <= 1 for s in m.share),
            f"node {name}, {m.origin} to {m.destination}: a share must be from 0 to 1",
        )
        require(
            0 < m.saturation <= 1,
            f"node {name}, {m.origin} to {m.destination}: saturation must be above 0 and at most 1",
        )
    for link in node.arriving:
        for k, class_name in enumerate(("motorcycles", "cars")):
            total = sum(m.share[k] for m in node.movements if m.origin == link)
            require(abs(total - 1) < 1e-9, f"node {name}: shares of {class_name} from {link} sum to {total:g}, not 1")
    for link, priority in node.priority.items():
        require(link in node.arriving, f"node {name}: priority for {link}, which does not arrive there")
        require(priority > 0, f"node {name}: the priority of {link} must be above 0")
    if node.signal is not None:
        _check_signal(name, node, node.signal)


def _check_signal(name: str, node: Node, signal: Signal) -> None:
    require(len(signal.phases) >= 2, f"node {name}: a signal needs two phases or more")
    shown = set(chain.from_iterable(signal.phases))
    require(
        shown <= set(node.arriving),
        f"node {name}: green for {', '.join(sorted(shown - set(node.arriving)))}, which does not arrive there",
    )
    never = [link for link in node.arriving if link not in shown]
    require(not never, f"node {name}: {', '.join(never)} never gets green")
    times = (signal.yellow, signal.all_red, signal.min_green, signal.end_gain)
    require(min(times) >= 0 and all(map(math.isfinite, times)), f"node {name}: signal times must be at least 0 s")
    require(
        signal.end_gain <= signal.yellow,
        f"node {name}: end_gain {signal.end_gain:g} s is longer than the yellow {signal.yellow:g} s",
    )
    require(signal.max_green >= signal.min_green, f"node {name}: max_green is shorter than min_green")
