"""Controllers by name, with the settings of the scenario's file."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from unbroken.errors import ConfigurationError
from unbroken.traffic.controllers.adaptive_signals import Actuated, MaxPressure
from unbroken.traffic.controllers.base import Controller, NoControl
from unbroken.traffic.controllers.fixed_time import FixedTime, tuned_plan
from unbroken.traffic.controllers.flow import Alinea, AlineaSettings, FeedbackLimits, HoldingLimits, ThresholdLimits
from unbroken.traffic.scenario import Control, Scenario

Make = Callable[..., Controller]

# Of each kind of control, the first one is the scenario's first baseline.
BASELINES: dict[Control, dict[str, Make]] = {
    "signals": {
        "webster": lambda scenario, **settings: FixedTime(tuned_plan(scenario, **settings)),
        "actuated": Actuated,
        "max_pressure": MaxPressure,
    },
    "ramp": {
        "none": lambda _: NoControl(),
        "alinea": lambda scenario, **settings: Alinea(scenario, AlineaSettings(**settings)),
    },
    "speed": {
        "none": lambda _: NoControl(),
        "threshold": ThresholdLimits,
        "feedback": FeedbackLimits,
        "holding": HoldingLimits,
    },
}


def controller_names(scenario: Scenario) -> tuple[str, ...]:
    """Names of the baselines of a scenario, the first baseline first."""
    return tuple(BASELINES[scenario.control])


def first_baseline(scenario: Scenario) -> Controller:
    """A new controller of the kind that warms the scenario up and that agents are compared with first."""
    return make_controller(controller_names(scenario)[0], scenario)


def make_controller(name: str, scenario: Scenario, settings: dict[str, Any] | None = None) -> Controller:
    """A new controller; `settings` go over those of the scenario's file.

    Raises:
        ConfigurationError: a name that the scenario's kind of control does not have, or a setting that the controller does not.
    """
    known = BASELINES[scenario.control]
    if name not in known:
        raise ConfigurationError(f"scenario {scenario.name} has no controller {name!r}: there are {', '.join(known)}")
    chosen = {**scenario.baselines.get(name, {}), **(settings or {})}
    for setting, value in chosen.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (value is None or setting == "bottleneck" or (number and math.isfinite(value) and value >= 0)):
            raise ConfigurationError(f"baselines.{name}.{setting}: must be a number of at least 0, not {value!r}")
    try:
        return known[name](scenario, **chosen)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise ConfigurationError(f"baselines.{name}: {error}") from None
        raise ConfigurationError(f"baselines.{name}: {chosen} does not fit: {error}") from None
