"""Edges shorter than a cell may be: they get metres of a neighbour in series, are merged with it, or are lengthened."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unbroken.traffic.importing.net_xml import Connection, Edge
from unbroken.traffic.importing.notes import Note


@dataclass
class Roads:
    """Edges and connections while they change; `members` names the edges of the file in each, upstream first."""

    edges: dict[str, Edge]
    connections: list[Connection]
    members: dict[str, tuple[str, ...]]
    notes: list[Note]

    def _series(self) -> set[tuple[str, str]]:
        """Pairs of edges of which the first leads nowhere else and the second is reached from nowhere else."""
        ahead: dict[str, set[str]] = {}
        behind: dict[str, set[str]] = {}
        for c in self.connections:
            ahead.setdefault(c.origin, set()).add(c.destination)
            behind.setdefault(c.destination, set()).add(c.origin)
        pairs = ((a, next(iter(exits))) for a, exits in ahead.items() if len(exits) == 1)
        return {(a, b) for a, b in pairs if behind[b] == {a} and a != b}

    def neighbours(self, name: str) -> list[tuple[str, str]]:
        """Pairs in series of which `name` is one, the longer neighbour first."""

        def other(pair: tuple[str, str]) -> float:
            return -self.edges[pair[0] if pair[1] == name else pair[1]].length

        return sorted((pair for pair in self._series() if name in pair), key=lambda pair: (other(pair), pair))

    def has_light(self, pair: tuple[str, str]) -> bool:
        return any(c.light is not None and (c.origin, c.destination) == pair for c in self.connections)

    def resize(self, name: str, length: float) -> None:
        self.edges[name] = replace(self.edges[name], length=length)

    def merge(self, first: str, second: str) -> str:
        """One edge instead of two in series, with the name of the longer and the lanes of the second (its stop line)."""
        upstream, downstream = self.edges.pop(first), self.edges.pop(second)
        name = first if upstream.length > downstream.length else second
        length = upstream.length + downstream.length
        duration = upstream.length / upstream.speed + downstream.length / downstream.speed
        self.edges[name] = Edge(name, upstream.begin, downstream.end, downstream.lanes, length, length / duration)
        self.members[name] = self.members.pop(first) + self.members.pop(second)
        kept = [c for c in self.connections if (c.origin, c.destination) != (first, second)]
        kept = [replace(c, origin=name) if c.origin == second else c for c in kept]
        self.connections = [replace(c, destination=name) if c.destination == first else c for c in kept]
        return name


def treat_short_edges(roads: Roads, shortest: float) -> None:
    """Bring every edge to `shortest` m or more; what was done is added to the notes."""
    for name in sorted(roads.edges, key=lambda name: (roads.edges[name].length, name)):
        # an edge that was merged into another is gone, and the other treated
        while name in roads.edges and roads.edges[name].length < shortest:
            name = _treat(roads, name, shortest)


def _treat(roads: Roads, name: str, shortest: float) -> str:
    length = roads.edges[name].length
    missing = shortest - length
    pairs = roads.neighbours(name)
    for pair in pairs:
        neighbour = pair[0] if pair[1] == name else pair[1]
        if roads.edges[neighbour].length - missing >= shortest:
            roads.resize(neighbour, roads.edges[neighbour].length - missing)
            roads.resize(name, shortest)
            roads.notes.append(
                Note("short edge, stop line moved", name, f"{length:.1f} m, takes {missing:.1f} m of {neighbour}")
            )
            return name
    for pair in pairs:
        if not roads.has_light(pair):
            merged = roads.merge(*pair)
            roads.notes.append(
                Note("short edge, merged", name, f"{length:.1f} m, one link of {' and '.join(roads.members[merged])}")
            )
            return merged
    roads.resize(name, shortest)
    roads.notes.append(Note("short edge, lengthened", name, f"from {length:.1f} to {shortest:.1f} m"))
    return name
