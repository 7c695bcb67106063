"""One simulation of a scenario under a controller, decision by decision, measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from unbroken.traffic.controllers.base import Controller, Resumable, drive
from unbroken.traffic.controllers.choosing import first_baseline
from unbroken.traffic.metrics import Metrics, Recorder, Rows, measured
from unbroken.traffic.scenario import DECISION, Scenario
from unbroken.traffic.simulation import Simulation


class Episode:
    """A scenario under a controller on one seed of demand, from the end of the warm-up on.

    The same seed gives the same arrivals whatever controls. The warm-up passes under `warm_up_controller`, by default the
    scenario's first baseline, as in the environments: what is compared begins alike. Demand goes on as long as the scenario has
    any, or until `end_demand`; so a short episode is the beginning of a long one.
    """

    def __init__(
        self, scenario: Scenario, controller: Controller, seed: int, *, warm_up_controller: Controller | None = None
    ) -> None:
        self.scenario, self.controller, self.seed = scenario, controller, seed
        self._warm_up_controller = warm_up_controller
        self.simulation = Simulation(scenario.network)
        self._recorder: Recorder | None = None

    @property
    def start(self) -> float:
        """s from the beginning of the simulation to that of the measurement."""
        return self.scenario.horizon.warm_up

    def begin(self) -> None:
        """Draw the demand and pass the warm-up."""
        self.simulation.set_demand(0, self.scenario.draw_demand(np.random.default_rng(self.seed)))
        drive(self.simulation, self._warm_up_controller or first_baseline(self.scenario), self.start)
        self._recorder = Recorder(self.simulation)

    def advance(self, n_decisions: int, look: Callable[[Simulation], None] | None = None) -> Rows:
        """Measure so many decisions of 15 s more; returns their rows (see `Recorder.rows`)."""
        recorder = self._recorder = Recorder(self.simulation, start=self._recording().get_state())
        for _ in range(n_decisions):
            drive(self.simulation, self.controller, DECISION, recorder.sample)
            recorder.close_row()
            if look:
                look(self.simulation)
        return recorder.rows()

    def end_demand(self) -> None:
        """No more vehicles arrive from now on, a whole number of minutes after the start."""
        end = self.simulation.time()
        self.simulation.set_demand(0, self.scenario.draw_demand(np.random.default_rng(self.seed), end))

    def _recording(self) -> Recorder:
        if self._recorder is None:
            self.begin()
        assert self._recorder is not None
        return self._recorder

    def get_state(self) -> dict[str, Any]:
        """Everything that the rest depends on, as plain data and arrays. Raises AttributeError for a controller without state."""
        controller: Resumable = self.controller  # type: ignore[assignment]
        return {
            "simulation": self.simulation.get_state(),
            "controller": controller.get_state(),
            "recorder": self._recording().get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where `get_state` of the same scenario, controller and seed was called."""
        controller: Resumable = self.controller  # type: ignore[assignment]
        self.simulation.set_state(state["simulation"])
        controller.set_state(state["controller"])
        self._recorder = Recorder(self.simulation, start=state["recorder"])


def play(
    scenario: Scenario,
    controller: Controller,
    seed: int,
    duration: float | None = None,
    *,
    warm_up_controller: Controller | None = None,
    look: Callable[[Simulation], None] | None = None,
) -> Metrics:
    """Warm up, measure `duration` s (default: the scenario's), drain without new demand, and measure that too.

    `look` is called after the warm-up and then every 15 s. For the rest see `Episode`.

    Raises:
        ConfigurationError: a duration that is not a multiple of 60 s, or longer than the scenario has demand for.
    """
    episode = Episode(scenario, controller, seed, warm_up_controller=warm_up_controller)
    return measured(play_rows(episode, duration, look), episode.start)


def play_rows(
    episode: Episode, duration: float | None = None, look: Callable[[Simulation], None] | None = None
) -> Rows:
    """The rows of an episode that has not begun, of `duration` s and the drain; see `play`."""
    scenario = episode.scenario
    horizon = scenario.horizon if duration is None else scenario.measured_for(duration)
    episode.begin()
    if look:
        look(episode.simulation)
    with_demand = episode.advance(round(horizon.measured / DECISION), look)
    episode.end_demand()
    return joined(with_demand, episode.advance(round(horizon.drain / DECISION), look))


def joined(first: Rows, then: Rows) -> Rows:
    """Rows one after the other; either may be empty."""
    return {name: np.concatenate([first[name], then[name]]) for name in first} if first and then else first or then
