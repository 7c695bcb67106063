"""Everything that the simulation of a traffic scenario depends on, as inputs of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unbroken.cache.context import numeric_context
from unbroken.cache.inputs import Inputs, Kind
from unbroken.cache.sources import module_sources, text_digest
from unbroken.errors import ConfigurationError
from unbroken.traffic.controllers.choosing import controller_names
from unbroken.traffic.road_network import RoadNetwork
from unbroken.traffic.scenario import DECISION, INTERVAL, Scenario, read_scenario
from unbroken.traffic.scenario_file import parse_scenario

PLAYING = "unbroken.traffic.playing"
_PHYSICS, _SCHEME = ("classes", "gamma"), ("cell", "step")
_COSMETIC = frozenset({"name", "description"})


@dataclass(frozen=True)
class Described:
    """A scenario with the file that it came from: `files` are digests by name, newlines normalised."""

    scenario: Scenario
    files: Mapping[str, str]

    @classmethod
    def read(cls, name: str | Path) -> Described:
        """A scenario of the package or a file. Raises as `load_scenario`."""
        label, content = read_scenario(name)
        try:
            scenario = parse_scenario(content.decode("utf-8"), label)
        except UnicodeDecodeError:
            raise ConfigurationError(f"{label}: not UTF-8 text") from None
        return cls(scenario, {f"scenario file {Path(label).name}": text_digest(content)})


@dataclass(frozen=True)
class Controlled:
    """What controls: `described` by plain values; `sources` are digests of its code and the simulator's."""

    kind: Kind
    described: Mapping[str, Any]
    sources: Mapping[str, str]


def baseline_control(scenario: Scenario, name: str) -> Controlled:
    """A baseline with the settings of the scenario's file."""
    settings = dict(scenario.baselines.get(name, {}))
    return Controlled("baseline", {"name": name, "settings": settings}, module_sources(PLAYING))


def episode_inputs(described: Described, controlled: Controlled, seed: int) -> Inputs:
    """Inputs of an episode's rows while there is demand. The length is none of them: a short one is the beginning of a long one."""
    scenario = described.scenario
    warm_up = controller_names(scenario)[0]
    return Inputs(
        scenario=scenario.name,
        kind=controlled.kind,
        values={
            **_parts(scenario),
            "demand_seed": seed,
            "controller": controlled.described,
            "warm_up_controller": baseline_control(scenario, warm_up).described,
            "decision_interval_s": DECISION,
            "control_interval_s": INTERVAL,
        },
        sources={**controlled.sources, **described.files},
        context=numeric_context(),
    )


def drain_inputs(main: Inputs, steps: int) -> Inputs:
    """Inputs of the rows after the demand ended behind `steps` decisions."""
    values = {**main.values, "demand_ends_after_decisions": steps}
    return Inputs(main.scenario, main.kind, values, main.sources, main.context)


def _parts(scenario: Scenario) -> dict[str, Any]:
    """The scenario by parts; what a later version adds to a scenario or a network is in it without being named here."""
    network = {field.name: getattr(scenario.network, field.name) for field in fields(RoadNetwork)}
    rest = {field.name: getattr(scenario, field.name) for field in fields(Scenario)}
    # of the baselines' settings only those of the controllers in play count
    for name in ("network", "baselines", *_COSMETIC):
        del rest[name]
    return {
        **rest,
        "physics": {name: network.pop(name) for name in _PHYSICS},
        "scheme": {name: network.pop(name) for name in _SCHEME},
        "network": network,
    }
