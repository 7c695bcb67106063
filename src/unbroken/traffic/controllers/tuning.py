"""Settings of the baselines by grid search: `python -m unbroken.traffic.controllers.tuning SCENARIO`.

Every setting is judged by total delay over the same seeds, none of which is used in comparisons; all control acts over the
scenario's whole horizon, so settings do not depend on the length of a comparison. What comes out is written into the scenario's
file by hand.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from unbroken.traffic.checking import require
from unbroken.traffic.controllers.choosing import controller_names, make_controller
from unbroken.traffic.playing import play
from unbroken.traffic.scenario import Scenario, load_scenario

SEEDS = tuple(range(5000, 5008))  # comparisons use seeds below 5000
SEEDS_OF = {"holding": tuple(range(5000, 5032))}  # its best flow lies near a cliff that eight seeds do not show
GRIDS: dict[str, dict[str, list[Any]]] = {
    "webster": {"offset_speed_kmh": [None, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0]},
    "actuated": {"gap": [0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55]},
    "max_pressure": {"full": [0.65, 0.8], "margin": [0.02, 0.05, 0.1, 0.2, 0.4], "decision": [6.0, 9.0, 15.0]},
    "alinea": {
        "gain": [1000.0, 2000.0, 4000.0, 8000.0],
        "target": [0.32, 0.34, 0.36, 0.38],
        "longest_queue": [0.7, 0.8, 0.9, 2.0],
    },
    "threshold": {"threshold": [0.2, 0.3, 0.5], "n_zones": [1, 2, 4], "low": [35.0, 40.0]},
    "feedback": {"target": [0.15, 0.2, 0.25, 0.3], "gain": [5.0, 10.0, 30.0], "n_zones": [1, 2, 4]},
}
FLOWS = 56  # of `holding`, over the range of the scenario's zones


@dataclass(frozen=True)
class Tried:
    """A setting and its mean total delay, veh h."""

    settings: dict[str, Any]
    delay: float


def tune(scenario: Scenario, controller: str, seeds: tuple[int, ...] | None = None) -> list[Tried]:
    """All settings of a controller's grid, best first; settings of the file that the grid does not name stay."""
    seeds = SEEDS_OF.get(controller, SEEDS) if seeds is None else seeds
    return sorted(
        (_tried(scenario, controller, settings, seeds) for settings in _grid(scenario, controller)),
        key=lambda tried: tried.delay,
    )


def _grid(scenario: Scenario, controller: str) -> Iterator[dict[str, Any]]:
    grid = GRIDS.get(controller, {})
    if controller == "holding":
        lowest, highest = scenario.zone_flow or (0.0, 0.0)
        require(highest > 0, "tuning of holding needs zone_flow_pcu_per_h: [lowest, highest]")
        grid = {"flow": [round(3600 * flow) for flow in np.linspace(lowest, highest, FLOWS)]}
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _tried(scenario: Scenario, controller: str, settings: dict[str, Any], seeds: tuple[int, ...]) -> Tried:
    delays = [play(scenario, make_controller(controller, scenario, settings), seed).total_delay for seed in seeds]
    return Tried(settings, float(np.mean(delays)) / 3600)


def main(name: str) -> None:
    """Tune all baselines of a scenario and print the best three settings of each."""
    scenario = load_scenario(name)
    for controller in controller_names(scenario):
        for tried in tune(scenario, controller)[:3]:
            print(f"{controller:<14}{tried.delay:>10.2f} veh h  {tried.settings}", flush=True)  # noqa: T201 - its output


if __name__ == "__main__":
    main(sys.argv[1])
