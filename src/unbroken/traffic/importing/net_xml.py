"""What a SUMO network file says, as plain values: edges with the lanes that cars may use, connections, traffic-light programs.

The format is that of https://sumo.dlr.de/docs/Networks/SUMO_Road_Networks.html. Nothing is interpreted here.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from unbroken.errors import ConfigurationError

GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Edge:
    """A road between two junctions: the indices of its lanes that cars may use, their mean length (m) and speed limit (m/s)."""

    name: str
    begin: str
    end: str
    lanes: tuple[int, ...]
    length: float
    speed: float


@dataclass(frozen=True)
class Connection:
    """From a lane to an edge; `light` is the traffic light and `index` its place in the light's states.

    `direction` and `state` are SUMO's letters: s l r L R t (U-turn), and the right of way (M goes first).
    """

    origin: str
    lane: int
    destination: str
    direction: str
    state: str
    light: str | None
    index: int


@dataclass(frozen=True)
class ProgramPhase:
    """One state of a traffic light: a letter for each of its connections."""

    duration: float
    state: str
    shortest: float | None
    longest: float | None


@dataclass(frozen=True)
class Program:
    """A traffic light's phases in order."""

    offset: float
    phases: tuple[ProgramPhase, ...]


@dataclass(frozen=True)
class NetFile:
    """Edges that cars may use, connections between them, and the first program of every traffic light."""

    edges: dict[str, Edge]
    connections: tuple[Connection, ...]
    programs: dict[str, Program]
    closed_edges: tuple[str, ...]
    further_programs: tuple[str, ...]


class _Element:
    """An XML element whose attributes are asked for with an error that names the file, the element and the attribute."""

    def __init__(self, path: Path, element: ElementTree.Element) -> None:
        self._path = path
        self._element = element

    def children(self, tag: str) -> list[_Element]:
        return [_Element(self._path, child) for child in self._element.findall(tag)]

    def get(self, name: str) -> str | None:
        return self._element.get(name)

    def text(self, name: str) -> str:
        value = self._element.get(name)
        if value is None:
            self.fail(f"has no {name}")
        return value

    def number(self, name: str, above: float = -math.inf) -> float:
        try:
            value = float(self.text(name))
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > above):
            wanted = "a number" if above == -math.inf else f"a number above {above:g}"
            self.fail(f"has {name} {self.text(name)!r}, not {wanted}")
        return value

    def index(self, name: str) -> int:
        if not self.text(name).isdecimal():
            self.fail(f"has {name} {self.text(name)!r}, not a whole number")
        return int(self.text(name))

    def perhaps(self, name: str) -> float | None:
        return None if self.get(name) is None else self.number(name)

    def fail(self, what: str) -> NoReturn:
        identity = self._element.get("id") or self._element.get("from") or ""
        raise ConfigurationError(f"{self._path}: <{self._element.tag}> {identity} {what}".replace("  ", " "))


def read_net_file(path: str | Path) -> NetFile:
    """Read a `.net.xml` or `.net.xml.gz`.

    Raises:
        ConfigurationError: no such file, not XML, damaged, another root element, missing or senseless attributes.
    """
    root = _root(Path(path))
    edges, closed = _edges(root)
    programs, further = _programs(root)
    return NetFile(edges, _connections(root, edges, programs), programs, closed, further)


def _root(path: Path) -> _Element:
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ConfigurationError(f"{path}: not a whole XML file ({error}); export the network again") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigurationError(f"{path}: a damaged gzip file ({error}); copy it again") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None
    if root.tag != "net":
        raise ConfigurationError(f"{path}: the root element is <{root.tag}>, a SUMO network begins with <net>")
    return _Element(path, root)


def _edges(root: _Element) -> tuple[dict[str, Edge], tuple[str, ...]]:
    edges, closed = {}, []
    for element in root.children("edge"):
        if element.get("function") not in (None, "normal"):
            continue
        name = element.text("id")
        lanes = element.children("lane")
        if not lanes:
            element.fail("has no lane")
        usable = [lane for lane in lanes if _admits_cars(lane)]
        if not usable:
            closed.append(name)
            continue
        edges[name] = Edge(
            name,
            element.text("from"),
            element.text("to"),
            tuple(lane.index("index") for lane in usable),
            sum(lane.number("length", above=0) for lane in usable) / len(usable),
            sum(lane.number("speed", above=0) for lane in usable) / len(usable),
        )
    if not edges:
        root.fail("has no edge that cars may use")
    return edges, tuple(closed)


def _admits_cars(lane: _Element) -> bool:
    allowed, refused = lane.get("allow"), lane.get("disallow")
    if allowed is not None:
        return bool({"all", "passenger"} & set(allowed.split()))
    return not {"all", "passenger"} & set((refused or "").split())


def _connections(root: _Element, edges: dict[str, Edge], programs: dict[str, Program]) -> tuple[Connection, ...]:
    found = []
    for element in root.children("connection"):
        origin, destination = element.text("from"), element.text("to")
        if origin not in edges or destination not in edges:  # a junction's inner edges, or an edge without cars
            continue
        lane = element.index("fromLane")
        if lane not in edges[origin].lanes or element.index("toLane") not in edges[destination].lanes:
            continue
        if edges[origin].end != edges[destination].begin:
            element.fail(f"leads to {destination}, which does not begin where {origin} ends")
        light = element.get("tl")
        index = _place(element, light, programs) if light is not None else -1
        found.append(
            Connection(origin, lane, destination, element.get("dir") or "s", element.get("state") or "M", light, index)
        )
    return tuple(found)


def _place(element: _Element, light: str, programs: dict[str, Program]) -> int:
    if light not in programs:
        element.fail(f"names traffic light {light}, which has no <tlLogic>")
    index, length = element.index("linkIndex"), len(programs[light].phases[0].state)
    if index >= length:
        element.fail(f"has linkIndex {index}, but states of traffic light {light} have {length} letters")
    return index


def _programs(root: _Element) -> tuple[dict[str, Program], tuple[str, ...]]:
    programs: dict[str, Program] = {}
    further = []
    for element in root.children("tlLogic"):
        name = element.text("id")
        if name in programs:
            further.append(name)
            continue
        phases = tuple(
            ProgramPhase(
                phase.number("duration", above=0), phase.text("state"), phase.perhaps("minDur"), phase.perhaps("maxDur")
            )
            for phase in element.children("phase")
        )
        if not phases:
            element.fail("has no phase")
        if len({len(phase.state) for phase in phases}) > 1:
            element.fail("has states of different lengths")
        programs[name] = Program(element.perhaps("offset") or 0.0, phases)
    return programs, tuple(further)
