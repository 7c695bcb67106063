"""Networks of SUMO (`.net.xml`) as `RoadNetwork`: geometry, lanes, movements and traffic lights, and notes of what differs.

Neither SUMO nor its Python packages are needed. Demand is not read: routes of single vehicles are not flows at origins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unbroken.errors import ConfigurationError
from unbroken.traffic.classes import CLASSES, VehicleClass
from unbroken.traffic.importing.lights import FixedProgram, Flows, green_share, make_signal, stages
from unbroken.traffic.importing.net_xml import Connection, Edge, NetFile, read_net_file
from unbroken.traffic.importing.notes import Note
from unbroken.traffic.importing.short_edges import Roads, treat_short_edges
from unbroken.traffic.road_network import Link, Movement, Node, RoadNetwork, Signal

LANE_GROUP = (
    100.0  # m at a stop line in which lanes with different greens are links of their own, at most half of the edge
)
MINOR = 0.25  # priority of an approach that has to yield, over one that has not (assumption)
U_TURN = "t"
# Saturation flow of turning over straight traffic, Highway Capacity Manual 2010, ch. 18: 1 / 1.18 and 1 / 1.05
SATURATION = {"r": 0.85, "R": 0.85, "l": 0.95, "L": 0.95}
Turning = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class ImportedNetwork:
    """`network`, what was approximated (`notes`), signal programs by node, and the links that stand for each edge of the file."""

    network: RoadNetwork
    notes: tuple[Note, ...]
    programs: Mapping[str, FixedProgram]
    links_of_edge: Mapping[str, tuple[str, ...]]


def read_sumo_network(
    path: str | Path,
    *,
    turning: Turning | None = None,
    classes: tuple[VehicleClass, VehicleClass] = CLASSES,
    cell: float = 25.0,
    step: float = 0.6,
) -> ImportedNetwork:
    """Import a `.net.xml` or `.net.xml.gz`.

    Edges that cars may use become links under their name (mean length and speed limit of those lanes), junctions become nodes.
    Edges without a way in are origins, without a way out sinks of unlimited capacity; U-turns are left out, so the map's edges
    are such ends. Where lanes at a traffic light have different greens, the last stretch is one link for each group of lanes
    (`EDGE_LANES`, lanes joined by +). Vehicles cross junctions in no time; priority at merges is kept, gap acceptance is not.

    Args:
        path: The file.
        turning: For an edge, the share of its vehicles that goes to each edge ahead; they sum to 1. By default every lane
            carries the same flow and splits it evenly over its connections.
        classes: Vehicle classes of the network.
        cell: Wanted cell length, m.
        step: Time step, s. Edges shorter than 2 x step x the fastest pressure get metres of a neighbour in series, are merged
            with it, or are lengthened.

    Raises:
        ConfigurationError: the file cannot be read, is damaged or no SUMO network, or `turning` does not fit it.
    """
    file = read_net_file(path)
    shortest = 2 * step * max(c.pressure for c in classes) * (1 + 1e-9)
    builder = _Builder(file, _checked(turning or {}, file), shortest)
    for edge in builder.roads.edges.values():
        builder.add(edge)
    builder.add_signals(file)
    network = RoadNetwork(
        builder.links,
        builder.nodes(),
        tuple(builder.origins),
        dict.fromkeys(builder.sinks, float("inf")),
        classes=classes,
        cell=cell,
        step=step,
    )
    return ImportedNetwork(network, tuple(builder.roads.notes), builder.programs, builder.links_of_edge())


def _checked(turning: Turning, file: NetFile) -> Turning:
    ahead: dict[str, set[str]] = {}
    for c in file.connections:
        ahead.setdefault(c.origin, set()).add(c.destination)
    for edge, shares in turning.items():
        unknown = sorted(set(shares) - ahead.get(edge, set()))
        if unknown or edge not in file.edges:
            raise ConfigurationError(f"turning at {edge}: no connection leads from there to {', '.join(unknown)}")
        if any(not share >= 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
            raise ConfigurationError(f"turning at {edge}: shares must be at least 0 and sum to 1, not {dict(shares)}")
    return turning


@dataclass
class _Approach:
    """The connections that leave one link, each with its share of the link's flow."""

    junction: str
    connections: list[tuple[Connection, float]]

    def flows(self, light: str | None) -> Flows:
        return [(share, c.index if c.light == light else -1) for c, share in self.connections]


@dataclass
class _Builder:
    """Links, approaches and signals of a network while it is put together."""

    file: NetFile
    turning: Turning
    shortest: float
    links: dict[str, Link] = field(default_factory=dict)
    origins: list[str] = field(default_factory=list)
    sinks: list[str] = field(default_factory=list)
    programs: dict[str, FixedProgram] = field(default_factory=dict)
    approaches: dict[str, dict[str, _Approach]] = field(default_factory=dict)
    signals: dict[str, Signal] = field(default_factory=dict)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        connections = [c for c in self.file.connections if c.direction != U_TURN or self._turns_back(c)]
        members: dict[str, tuple[str, ...]] = {name: (name,) for name in self.file.edges}
        self.roads = Roads(dict(self.file.edges), connections, members, _file_notes(self.file, len(connections)))
        treat_short_edges(self.roads, self.shortest)
        self.ahead: dict[str, list[Connection]] = {}
        for c in self.roads.connections:
            self.ahead.setdefault(c.origin, []).append(c)
        self.reached = {c.destination for c in self.roads.connections}

    def _turns_back(self, c: Connection) -> bool:
        return self.turning.get(c.origin, {}).get(c.destination, 0.0) > 0

    def add(self, edge: Edge) -> None:
        """Make the link of an edge, or its links where lanes have different greens."""
        if edge.name not in self.reached:
            self.origins.append(edge.name)
        if edge.name not in self.ahead:
            self.sinks.append(edge.name)
            self.links[edge.name] = Link(edge.length, len(edge.lanes), edge.speed)
            return
        weighted = self._weighted(edge)
        lane_groups = self._lane_groups(edge, weighted)
        if len(lane_groups) > 1 and edge.length >= 2 * self.shortest:
            self._split(edge, lane_groups, weighted)
            return
        if len(lane_groups) > 1:
            self.roads.notes.append(
                Note("lanes with different greens", edge.name, f"{edge.length:.1f} m are too short to part them")
            )
        self.links[edge.name] = Link(edge.length, len(edge.lanes), edge.speed)
        self._approach(edge.end, edge.name, weighted)

    def _split(self, edge: Edge, lane_groups: list[tuple[int, ...]], weighted: list[tuple[Connection, float]]) -> None:
        last = min(LANE_GROUP, edge.length / 2)
        self.links[edge.name] = Link(edge.length - last, len(edge.lanes), edge.speed)
        shares = {}
        for lanes in lane_groups:
            name = f"{edge.name}_{'+'.join(map(str, lanes))}"
            own = [(c, weight) for c, weight in weighted if c.lane in lanes]
            self.links[name] = Link(last, len(lanes), edge.speed)
            shares[name] = sum(weight for _, weight in own)
            self._approach(edge.end, name, own)
        self.groups[edge.name] = shares
        self.roads.notes.append(
            Note("lanes with different greens", edge.name, f"the last {last:.1f} m are links {', '.join(shares)}")
        )

    def _approach(self, junction: str, link: str, weighted: list[tuple[Connection, float]]) -> None:
        total = sum(weight for _, weight in weighted)
        even = 1 / len(weighted)  # nobody goes there, but shares of an approach sum to 1
        own = [(c, weight / total if total > 0 else even) for c, weight in weighted]
        self.approaches.setdefault(junction, {})[link] = _Approach(junction, own)

    def _weighted(self, edge: Edge) -> list[tuple[Connection, float]]:
        """Each connection of an edge with its share of the edge's flow."""
        own = self.ahead[edge.name]
        lanes = [c.lane for c in own]
        even = [1 / (len(set(lanes)) * lanes.count(c.lane)) for c in own]
        wanted = self._wanted(edge.name)
        if wanted is None:
            return list(zip(own, even, strict=True))
        sums: dict[str, float] = {}
        for c, weight in zip(own, even, strict=True):
            sums[c.destination] = sums.get(c.destination, 0.0) + weight
        return [
            (c, wanted.get(c.destination, 0.0) * weight / sums[c.destination])
            for c, weight in zip(own, even, strict=True)
        ]

    def _wanted(self, link: str) -> dict[str, float] | None:
        """Given turning shares at the end of a link, by the link ahead."""
        given = self.turning.get(self.roads.members[link][-1])
        if given is None:
            return None
        link_of = {edge: name for name, edges in self.roads.members.items() for edge in edges}
        return {link_of[edge]: share for edge, share in given.items()}

    def _lane_groups(self, edge: Edge, weighted: list[tuple[Connection, float]]) -> list[tuple[int, ...]]:
        """Lanes that are open in the same stages."""
        light = self._light(edge.end)
        if light is None:
            return [edge.lanes]
        shown = stages(self.file.programs[light], self._places(edge.end, light))
        groups: dict[tuple[bool, ...], list[int]] = {}
        for lane in sorted({c.lane for c, _ in weighted}):
            flows = [(1.0, c.index if c.light == light else -1) for c, _ in weighted if c.lane == lane]
            opened = tuple(green_share(flows, stage) >= 0.5 for stage in shown)
            groups.setdefault(opened, []).append(lane)
        return [tuple(lanes) for lanes in groups.values()]

    def _at(self, junction: str) -> list[Connection]:
        return [c for c in self.roads.connections if self.roads.edges[c.origin].end == junction]

    def _light(self, junction: str) -> str | None:
        """The traffic light of a junction: the one with most connections."""
        lights = [c.light for c in self._at(junction) if c.light is not None]
        return max(sorted(set(lights)), key=lights.count, default=None)

    def _places(self, junction: str, light: str) -> list[int]:
        return sorted({c.index for c in self._at(junction) if c.light == light})

    def add_signals(self, file: NetFile) -> None:
        """Make the signals of all junctions that have a light."""
        junctions_of: dict[str, list[str]] = {}
        for junction, approaches in self.approaches.items():
            light = self._light(junction)
            if light is None:
                continue
            junctions_of.setdefault(light, []).append(junction)
            flows = {link: approach.flows(light) for link, approach in approaches.items()}
            signal, program, notes = make_signal(junction, file.programs[light], flows)
            self.roads.notes.extend(notes)
            if signal is not None and program is not None:
                self.signals[junction], self.programs[junction] = signal, program
        for light, junctions in junctions_of.items():
            if len(junctions) > 1:
                self.roads.notes.append(
                    Note("one light at several junctions", light, f"a signal each at {', '.join(junctions)}")
                )

    def nodes(self) -> dict[str, Node]:
        """All nodes: junctions, and the beginnings of lane groups (`EDGE:lanes`)."""
        nodes = {}
        for junction, approaches in self.approaches.items():
            movements = [m for link, approach in approaches.items() for m in _movements(link, approach)]
            priority = {link: MINOR for link, approach in approaches.items() if _yields(approach)}
            signal = self.signals.get(junction)
            nodes[junction] = Node(tuple(movements), {} if signal else priority, signal)
        for edge, shares in self.groups.items():
            movements = [Movement(edge, link, (share, share)) for link, share in shares.items()]
            nodes[f"{edge}:lanes"] = Node(tuple(movements))
        return nodes

    def links_of_edge(self) -> dict[str, tuple[str, ...]]:
        """For every edge of the file the links that stand for it."""
        return {
            edge: (link, *self.groups.get(link, ())) for link, edges in self.roads.members.items() for edge in edges
        }


def _movements(link: str, approach: _Approach) -> list[Movement]:
    shares: dict[str, float] = {}
    saturations: dict[str, float] = {}
    for c, share in approach.connections:
        shares[c.destination] = shares.get(c.destination, 0.0) + share
        saturations[c.destination] = SATURATION.get(c.direction, 1.0)
    return [Movement(link, to, (min(1.0, share), min(1.0, share)), saturations[to]) for to, share in shares.items()]


def _yields(approach: _Approach) -> bool:
    return sum(share for c, share in approach.connections if c.state in ("m", "s")) > 0.5


def _file_notes(file: NetFile, kept: int) -> list[Note]:
    notes = [Note("edge without cars", name, "left out") for name in file.closed_edges]
    notes += [Note("further program", name, "only the first is used") for name in file.further_programs]
    if kept < len(file.connections):
        notes.append(Note("U-turns", "network", f"{len(file.connections) - kept} connections left out"))
    return notes
