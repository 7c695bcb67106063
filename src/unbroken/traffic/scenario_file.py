"""Scenario files: YAML with units in the keys (`length_m`, `speed_limit_kmh`, `veh_per_h`), unknown keys refused."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Hashable
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from unbroken.errors import ConfigurationError
from unbroken.traffic.classes import CAR, MOTORCYCLE, VehicleClass
from unbroken.traffic.controllers.choosing import BASELINES
from unbroken.traffic.demand import Demand, Profile
from unbroken.traffic.road_network import Link, Movement, Node, Pair, RoadNetwork, Signal
from unbroken.traffic.scenario import Horizon, Scenario

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Flow = Annotated[float, Field(ge=0, le=1e6, strict=True)]  # veh/h
KMH, PER_HOUR = 1 / 3.6, 1 / 3600


class _Unclear(ValueError):
    """What YAML takes without a word for something else: the last of two equal keys, 10:30 as 630, 010 as 8."""


class _Loader(yaml.SafeLoader):
    """Safe, and refuses keys that stand twice in one mapping and numbers that are not decimal."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in seen:
                raise _Unclear(f"line {key_node.start_mark.line + 1}: {key} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def decimal(self, node: Any) -> Any:
        """A number as people read it."""
        text = self.construct_scalar(node)
        if not re.fullmatch(r"[-+]?(0|[1-9][\d_]*)?(\.[\d_]*)?([eE][-+]?\d+)?|[-+]?\.inf|\.nan", text, re.IGNORECASE):
            raise _Unclear(f"line {node.start_mark.line + 1}: write {text} as a plain number, or in quotes as a name")
        whole = node.tag.endswith(":int")
        try:
            return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        except (ValueError, IndexError):
            raise _Unclear(f"line {node.start_mark.line + 1}: {text!r} is no number") from None


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.decimal)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.decimal)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LinkPart(_Part):
    """One stretch of road."""

    length_m: Positive
    lanes: Positive = 1.0
    speed_limit_kmh: Positive | None = None

    def value(self) -> Link:
        return Link(self.length_m, self.lanes, math.inf if self.speed_limit_kmh is None else self.speed_limit_kmh * KMH)


class SharesPart(_Part):
    """A share that differs between classes."""

    motorcycle: Share
    car: Share


class MovementPart(_Part):
    """One way through a node."""

    origin: str = Field(alias="from")
    to: str
    share: Share | SharesPart = 1.0
    saturation: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0

    def value(self) -> Movement:
        share: Pair = (
            (self.share.motorcycle, self.share.car) if isinstance(self.share, SharesPart) else (self.share, self.share)
        )
        return Movement(self.origin, self.to, share, self.saturation)


class SignalPart(_Part):
    """A traffic light; each phase lists the links that have green."""

    phases: list[Annotated[list[str], Field(min_length=1)]]
    yellow_s: NotNegative = 3.0
    all_red_s: NotNegative = 2.0
    min_green_s: NotNegative = 7.0
    max_green_s: Positive = 75.0
    end_gain_s: NotNegative = 2.0

    @field_validator("phases")
    @classmethod
    def _each_once(cls, phases: list[list[str]]) -> list[list[str]]:
        sets = [frozenset(phase) for phase in phases]
        if len(set(sets)) < len(phases) or any(
            len(once) < len(phase) for once, phase in zip(sets, phases, strict=True)
        ):
            raise ValueError("a phase, or a link in a phase, stands twice")
        return phases

    def value(self) -> Signal:
        phases = tuple(tuple(phase) for phase in self.phases)
        return Signal(phases, self.yellow_s, self.all_red_s, self.min_green_s, self.max_green_s, self.end_gain_s)


class NodePart(_Part):
    """Where links meet."""

    movements: list[MovementPart]
    priority: dict[str, Positive] = {}
    signal: SignalPart | None = None

    def value(self) -> Node:
        movements = tuple(movement.value() for movement in self.movements)
        return Node(movements, self.priority, self.signal.value() if self.signal else None)


class OriginPart(_Part):
    """Demand of a link: points of (time in s, vehicles per hour)."""

    veh_per_h: Annotated[list[tuple[NotNegative, Flow]], Field(min_length=1)]
    motorcycle_share: Share = 0.5

    def value(self) -> Profile:
        return Profile(tuple((time, flow * PER_HOUR) for time, flow in self.veh_per_h), self.motorcycle_share)


class SinkPart(_Part):
    """Where vehicles leave; no capacity means any flow."""

    capacity_veh_per_h: NotNegative | None = None

    def value(self) -> float:
        return math.inf if self.capacity_veh_per_h is None else self.capacity_veh_per_h * PER_HOUR


class ClassPart(_Part):
    """Parameters of a class that differ from the defaults of `unbroken.traffic.classes`."""

    free_speed_kmh: Positive | None = None
    length_m: Positive | None = None
    max_occupancy: Positive | None = None
    pressure_kmh: Positive | None = None
    relaxation_time_s: Positive | None = None
    critical: Share | None = None
    standing: Share | None = None

    def value(self, default: VehicleClass) -> VehicleClass:
        def chosen(own: float | None, other: float, unit: float = 1.0) -> float:
            return other if own is None else own * unit

        return VehicleClass(
            default.name,
            free_speed=chosen(self.free_speed_kmh, default.free_speed, KMH),
            length=chosen(self.length_m, default.length),
            max_occupancy=chosen(self.max_occupancy, default.max_occupancy),
            pressure=chosen(self.pressure_kmh, default.pressure, KMH),
            relaxation_time=chosen(self.relaxation_time_s, default.relaxation_time),
            critical=chosen(self.critical, default.critical),
            standing=chosen(self.standing, default.standing),
        )


class ClassesPart(_Part):
    """Both classes."""

    motorcycle: ClassPart = ClassPart()
    car: ClassPart = ClassPart()


class GridPart(_Part):
    """Cells and time step."""

    cell_m: Positive = 25.0
    step_s: Positive = 0.6
    gamma: Positive = 1.0


class HorizonPart(_Part):
    """Times of a simulation."""

    warm_up_s: NotNegative = 900.0
    measured_s: Positive = 3600.0
    drain_s: NotNegative = 900.0


class ScenarioPart(_Part):
    """A whole file."""

    name: str
    control: Literal["signals", "ramp", "speed"]
    description: str = ""
    sources: list[str] = []
    assumptions: list[str] = []
    horizon: HorizonPart = HorizonPart()
    grid: GridPart = GridPart()
    classes: ClassesPart = ClassesPart()
    links: dict[str, LinkPart]
    nodes: dict[str, NodePart] = {}
    origins: dict[str, OriginPart]
    sinks: dict[str, SinkPart]
    meters: list[str] = []
    zones: dict[str, list[str]] = {}
    zone_flow_pcu_per_h: tuple[Flow, Flow] | None = None
    counts: Literal["poisson", "mean"] = "poisson"
    baselines: dict[str, dict[str, Any]] = {}

    def value(self) -> Scenario:
        gamma = None if self.grid.gamma == 1 else self.grid.gamma
        network = RoadNetwork(
            links={name: link.value() for name, link in self.links.items()},
            nodes={name: node.value() for name, node in self.nodes.items()},
            origins=tuple(self.origins),
            sinks={name: sink.value() for name, sink in self.sinks.items()},
            meters=tuple(self.meters),
            classes=(self.classes.motorcycle.value(MOTORCYCLE), self.classes.car.value(CAR)),
            cell=self.grid.cell_m,
            step=self.grid.step_s,
            gamma=gamma,
        )
        strange = sorted(set(self.baselines) - set(BASELINES[self.control]))
        if strange:
            known = ", ".join(BASELINES[self.control])
            raise ConfigurationError(
                f"baselines: unknown {', '.join(strange)}; for control {self.control} there are {known}"
            )
        flows = self.zone_flow_pcu_per_h
        return Scenario(
            self.name,
            self.control,
            network,
            Demand({name: origin.value() for name, origin in self.origins.items()}, counts=self.counts == "poisson"),
            Horizon(self.horizon.warm_up_s, self.horizon.measured_s, self.horizon.drain_s),
            {name: tuple(links) for name, links in self.zones.items()},
            self.baselines,
            self.description,
            flows and (flows[0] * PER_HOUR, flows[1] * PER_HOUR),
        )


def parse_scenario(text: str, source: str) -> Scenario:
    """The scenario that `text` describes; `source` is named in errors.

    Raises:
        ConfigurationError: not YAML, an unknown key, a value out of range, or a network that cannot be; one line for each.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
    except _Unclear as error:
        raise ConfigurationError(f"{source}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{source}: a scenario is a mapping with name, control, links, origins, sinks")
    try:
        return ScenarioPart.model_validate(content).value()
    except ValidationError as error:
        raise ConfigurationError("\n".join(f"{source}: {line}" for line in _lines(error))) from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error}") from None


def _lines(error: ValidationError) -> list[str]:
    lines = {f"{_place(problem)}: {_reason(problem)}": None for problem in error.errors()}
    return list(lines)[:5]


def _place(problem: Any) -> str:
    """The way to the value, without pydantic's names for kinds of values."""
    kept = [
        str(part) for part in problem["loc"] if not str(part).startswith(("constrained-", "SharesPart", "float", "["))
    ]
    return ".".join(kept) or "file"


def _reason(problem: Any) -> str:
    kind, value = problem["type"], problem["input"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1]), _KEYS, 1)
        return "unknown key" + (f"; did you mean {near[0]}?" if near else "")
    if isinstance(value, bool) or problem["loc"][-1] == "[key]":
        return f"{value!r} is no text or number here; put names in quotes"
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, not {value!r}"[:160]


_PARTS = (
    ScenarioPart,
    LinkPart,
    MovementPart,
    SignalPart,
    NodePart,
    OriginPart,
    SinkPart,
    ClassPart,
    GridPart,
    HorizonPart,
)
_KEYS = sorted({field.alias or name for part in _PARTS for name, field in part.model_fields.items()})
