"""Traffic control on a two-class (motorcycles, cars) Aw-Rascle-Zhang model of a road network; usable without the rest of the
package.

`simulate_link` runs one link against theory; `RoadNetwork`, `Demand` and `Simulation` run networks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbroken.traffic.classes import CAR, MOTORCYCLE, VehicleClass
    from unbroken.traffic.demand import Demand, Profile
    from unbroken.traffic.road_network import Link, Movement, Node, RoadNetwork, Signal
    from unbroken.traffic.simulation import Simulation
    from unbroken.traffic.single_link import simulate_link

_HOMES = {
    "CAR": "classes",
    "MOTORCYCLE": "classes",
    "VehicleClass": "classes",
    "Demand": "demand",
    "Profile": "demand",
    "Link": "road_network",
    "Movement": "road_network",
    "Node": "road_network",
    "RoadNetwork": "road_network",
    "Signal": "road_network",
    "Simulation": "simulation",
    "simulate_link": "single_link",
}
__all__ = [
    "CAR",
    "MOTORCYCLE",
    "Demand",
    "Link",
    "Movement",
    "Node",
    "Profile",
    "RoadNetwork",
    "Signal",
    "Simulation",
    "VehicleClass",
    "simulate_link",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
