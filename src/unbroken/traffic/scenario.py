"""A scenario: a road network with its demand, horizon, what is controlled, and settings of the baselines it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unbroken.errors import NotFound
from unbroken.traffic.demand import Demand
from unbroken.traffic.layout import DEMAND_PERIOD
from unbroken.traffic.road_network import RoadNetwork

Control = Literal["signals", "ramp", "speed"]
DECISION = 15.0  # s


@dataclass(frozen=True)
class Horizon:
    """Times of a simulation in s: filling the network, the time that is judged, and emptying it without new demand.

    Vehicles that arrive in `measured` are judged; demand ends with it, so that a short horizon is a prefix of a long one until
    then.
    """

    warm_up: float = 900.0
    measured: float = 3600.0
    drain: float = 900.0

    @property
    def demand_end(self) -> float:
        """s from the start until no more vehicles arrive."""
        return self.warm_up + self.measured


@dataclass(frozen=True)
class Scenario:
    """What an environment, a baseline and a comparison share. `zones` names groups of links for speed limits."""

    name: str
    control: Control
    network: RoadNetwork
    demand: Demand
    horizon: Horizon = Horizon()
    zones: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    description: str = ""

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

    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise NotFound(f"no scenario file {path}")
        return parse_scenario(path.read_text(encoding="utf-8"), str(path))
    if str(name) not in scenario_names():
        raise NotFound(f"no scenario {name}: there are {', '.join(scenario_names())}, or give a .yaml file")
    text = (resources.files("unbroken.traffic") / "scenarios" / f"{name}.yaml").read_text(encoding="utf-8")
    return parse_scenario(text, f"{name}.yaml")
