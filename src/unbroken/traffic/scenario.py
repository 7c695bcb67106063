"""A scenario: a road network with its demand, horizon, what is controlled, and settings of the baselines it is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unbroken.errors import ConfigurationError, NotFound
from unbroken.traffic.checking import require
from unbroken.traffic.demand import Demand
from unbroken.traffic.layout import DEMAND_PERIOD
from unbroken.traffic.road_network import RoadNetwork

Control = Literal["signals", "ramp", "speed"]
DECISION = 15.0  # s
INTERVAL = 3.0  # s between two calls of a controller
LONGEST = 30 * 86_400.0  # s


@dataclass(frozen=True)
class Horizon:
    """Times of a simulation in s: filling the network, the time that is judged, and emptying it without new demand.

    Vehicles that arrive in `measured` are judged; demand ends with it, so that a short horizon is a prefix of a long one until
    then.
    """

    warm_up: float = 900.0
    measured: float = 3600.0
    drain: float = 900.0

    def __post_init__(self) -> None:
        for name, seconds, unit in (
            ("warm_up", self.warm_up, DEMAND_PERIOD),
            ("measured", self.measured, DEMAND_PERIOD),
            ("drain", self.drain, DECISION),
        ):
            if not 0 <= seconds <= LONGEST or seconds % unit:
                raise ConfigurationError(
                    f"{name} must be a multiple of {unit:g} s up to {LONGEST:g} s, not {seconds:g} s"
                )
        if self.measured == 0:
            raise ConfigurationError("measured must be above 0 s")

    @property
    def demand_end(self) -> float:
        """s from the start until no more vehicles arrive."""
        return self.warm_up + self.measured


@dataclass(frozen=True)
class Scenario:
    """What an environment, a baseline and a comparison share.

    `zones` names groups of links for speed limits; `zone_flow` is the range of flows that an agent can let out of them, in PCU/s.
    """

    name: str
    control: Control
    network: RoadNetwork
    demand: Demand
    horizon: Horizon = Horizon()
    zones: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    description: str = ""
    zone_flow: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        network = self.network
        unknown = [origin for origin in self.demand.profiles if origin not in network.origins]
        require(not unknown, f"demand at {', '.join(unknown)}: not an origin")
        needed = {
            "signals": any(node.signal for node in network.nodes.values()),
            "ramp": bool(network.meters),
            "speed": bool(self.zones),
        }
        what = {"signals": "a node with a signal", "ramp": "meters", "speed": "zones"}
        require(needed[self.control], f"control {self.control} needs {what[self.control]}")
        zoned = [link for links in self.zones.values() for link in links]
        for zone, links in self.zones.items():
            require(bool(links), f"zone {zone} has no links")
            strange = [link for link in links if link not in network.links]
            require(not strange, f"zone {zone}: unknown link {', '.join(strange)}")
        require(len(zoned) == len(set(zoned)), "a link is in two zones")
        lowest, highest = self.zone_flow or (1.0, 2.0)
        require(0 < lowest < highest < math.inf, "zone_flow goes from a flow above 0 to a higher one")
        steps = INTERVAL / network.step
        require(abs(steps - round(steps)) < 1e-6, f"the step must divide {INTERVAL:g} s, {network.step:g} s does not")

    def measured_for(self, seconds: float) -> Horizon:
        """The scenario's horizon with another measured time, at most its own. Raises ConfigurationError."""
        require(
            seconds <= self.horizon.measured,
            f"a scenario with {self.horizon.measured:g} s of demand cannot be measured for {seconds:g} s",
        )
        return replace(self.horizon, measured=seconds)

    def draw_demand(self, rng: np.random.Generator, end: float | None = None) -> NDArray[np.float64]:
        """Flows in veh/s, (2, origins, periods), drawn for the whole horizon; none from `end` (s, default: its end) on."""
        flows = self.demand.draw(self.network.origins, self.horizon.demand_end + DEMAND_PERIOD, DEMAND_PERIOD, rng)
        starts = np.arange(flows.shape[2]) * DEMAND_PERIOD
        flows[:, :, starts >= (self.horizon.demand_end if end is None else end)] = 0.0
        return flows


def scenario_names() -> tuple[str, ...]:
    """Scenarios that come with the package."""
    folder = resources.files("unbroken.traffic") / "scenarios"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_scenario(name: str | Path) -> Scenario:
    """A scenario of the package by name, or one from a YAML file.

    Raises:
        NotFound: neither a scenario of the package nor a file.
        ConfigurationError: the file describes no possible scenario; says where and why.
    """
    from unbroken.traffic.scenario_file import parse_scenario

    label, content = read_scenario(name)
    try:
        return parse_scenario(content.decode("utf-8"), label)
    except UnicodeDecodeError:
        raise ConfigurationError(f"{label}: not UTF-8 text") from None


def read_scenario(name: str | Path) -> tuple[str, bytes]:
    """What the file of a scenario is called and holds. Raises NotFound as `load_scenario`."""
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml"):
        if not path.is_file():
            raise NotFound(f"no scenario file {path}")
        return str(path), path.read_bytes()
    if str(name) not in scenario_names():
        raise NotFound(f"no scenario {name}: there are {', '.join(scenario_names())}, or give a .yaml file")
    return f"{name}.yaml", (resources.files("unbroken.traffic") / "scenarios" / f"{name}.yaml").read_bytes()
