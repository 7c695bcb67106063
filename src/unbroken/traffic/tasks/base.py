"""The part that all tasks share: episodes, demand, decisions of 15 s, and the reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from unbroken.errors import ConfigurationError
from unbroken.traffic.controllers.base import drive
from unbroken.traffic.controllers.choosing import first_baseline
from unbroken.traffic.demand import arrived_by
from unbroken.traffic.layout import DEMAND_PERIOD
from unbroken.traffic.scenario import DECISION, INTERVAL, Control, Scenario
from unbroken.traffic.simulation import Simulation

Floats = NDArray[np.float64]


class Task(ABC):
    """`batch` episodes of a scenario side by side, all at the same decision.

    Subclasses say what is observed, what an action does and which actions are legal. Arrays have the batch axis first; a row is
    bit for bit what a task of one makes of the same demand and actions.
    """

    n_observations: int
    action_space: spaces.MultiDiscrete | spaces.Box  # of one episode

    def __init__(self, scenario: Scenario, batch: int = 1, measured: float | None = None, drain: float = 0.0) -> None:
        self.scenario = scenario
        self.horizon = replace(
            scenario.measured_for(scenario.horizon.measured if measured is None else measured), drain=drain
        )
        self.simulation = Simulation(scenario.network, batch)
        self.reference_vehicles = _reference_vehicles(scenario, self.simulation)
        self._spent = np.zeros(batch)
        self._free = np.zeros((batch, self.n_decisions))

    @property
    def n_decisions(self) -> int:
        """Decisions in an episode."""
        return round((self.horizon.measured + self.horizon.drain) / DECISION)

    def decisions_made(self) -> int:
        """Decisions since the end of the warm-up."""
        return round((float(self.simulation.times()[0]) - self.horizon.warm_up) / DECISION)

    def begin(self, generators: list[np.random.Generator]) -> None:
        """New episodes: each draws its demand from its generator, and the warm-up passes under the scenario's first baseline."""
        self.simulation.restart()
        for b, rng in enumerate(generators):
            self.simulation.set_demand(b, self.scenario.draw_demand(rng, self.horizon.demand_end))
        drive(self.simulation, first_baseline(self.scenario), self.horizon.warm_up)
        self.reset_own_state()
        self._spent = self.simulation.time_spent().sum(axis=1)
        self._free = self._free_time_spent()

    def take_over(self, simulation: Simulation) -> None:
        """Observe and control another simulation of the same network and batch from now on; rewards are not defined there."""
        self.simulation = simulation
        self.reset_own_state()

    def decide(self, actions: NDArray[Any]) -> Floats:
        """Apply actions of the action space, shape (B, parts), for 15 s; returns the rewards, shape (B,).

        Reward: - (vehicle seconds spent in these 15 s - those that the same arrivals would spend on empty roads) / (reference
        vehicles x 15 s), origin queues included, less `penalty`. What is subtracted depends on arrivals alone: it changes no
        comparison of actions and takes most of the noise of Poisson arrivals out of their returns.
        """
        made = self.decisions_made()
        if not 0 <= made < self.n_decisions:
            raise ConfigurationError("the episode has not begun or is over: begin a new one")
        penalty = self.apply(actions)
        free = self._free[:, made]
        self.simulation.advance(DECISION)
        spent = self.simulation.time_spent().sum(axis=1)
        reward = -(spent - self._spent - free) / (self.reference_vehicles * DECISION) - penalty
        self._spent = spent
        return np.asarray(reward)

    def clock(self) -> Floats:
        """Time since the start as a part of the scenario's whole horizon, shape (B,): what a day's demand looks like is known."""
        horizon = self.scenario.horizon
        return np.asarray(self.simulation.times() / (horizon.demand_end + horizon.drain))

    @property
    def over(self) -> bool:
        """Whether the episode has had all its decisions."""
        return self.decisions_made() >= self.n_decisions

    def get_state(self) -> dict[str, Any]:
        """Everything that changes, as arrays of its own."""
        own = {"spent": self._spent.copy(), "free": self._free.copy(), **self.own_state()}
        return {"simulation": self.simulation.get_state(), **own}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_state` of the same task gave."""
        self.simulation.set_state(state["simulation"])
        self._spent = np.array(state["spent"], dtype=np.float64)
        self._free = np.array(state["free"], dtype=np.float64)
        self.set_own_state(state)

    def _free_time_spent(self) -> Floats:
        """veh s that the arrivals would spend on empty roads in each decision of the episode, shape (B, decisions)."""
        layout, flows = self.simulation.layout, self.simulation.state.demand
        ticks = self.horizon.warm_up + INTERVAL * np.arange(self.n_decisions * round(DECISION / INTERVAL) + 1)
        present = np.zeros((self.simulation.batch, len(ticks)))
        for origin, link in enumerate(self.simulation.network.origins):
            for k, stay in enumerate(layout.free_travel_time[:, layout.links.index(link)]):
                came = arrived_by(
                    flows[:, k, origin], DEMAND_PERIOD, np.concatenate([ticks, np.maximum(ticks - stay, 0.0)])
                )
                present += came[:, : len(ticks)] - came[:, len(ticks) :]
        spent = INTERVAL * 0.5 * (present[:, 1:] + present[:, :-1])
        return np.asarray(spent.reshape(self.simulation.batch, self.n_decisions, -1).sum(axis=2))

    def reset_own_state(self) -> None:  # noqa: B027 - a task may remember nothing
        """What the task itself remembers, as at the end of the warm-up."""

    def own_state(self) -> dict[str, Any]:
        """What the task itself remembers beside the simulation and the rewards, as arrays of its own."""
        return {}

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Take over what `own_state` gave; other keys are left alone."""
        del state

    @abstractmethod
    def apply(self, actions: NDArray[Any]) -> Floats:
        """Set signals, meters or limits; returns what actions cost by themselves, shape (B,)."""

    @abstractmethod
    def observe(self) -> NDArray[np.float32]:
        """What agents see now, shape (B, n_observations), from 0 to 1."""

    @abstractmethod
    def masks(self) -> NDArray[np.bool_]:
        """Legal choices of all parts, one after the other, shape (B, choices); none of continuous actions."""


def checked_actions(space: spaces.MultiDiscrete | spaces.Box, batch: int, actions: ArrayLike) -> NDArray[Any]:
    """Actions of `batch` episodes as the task takes them; raises ConfigurationError where one is not in the space."""
    given = np.asarray(actions)
    discrete = isinstance(space, spaces.MultiDiscrete)
    fits = given.shape == (batch, *space.shape) and np.issubdtype(given.dtype, np.integer if discrete else np.number)
    if isinstance(space, spaces.MultiDiscrete):
        fits = fits and bool(((given >= 0) & (given < space.nvec)).all())
    else:
        fits = fits and bool(((given >= space.low) & (given <= space.high)).all())
    if not fits:
        raise ConfigurationError(f"actions of {batch} environments must be in {space} each, not {given.tolist()}")
    return given.astype(np.int64 if discrete else np.float64)


def flattened(batch: int, parts: Sequence[ArrayLike]) -> NDArray[np.float32]:
    """Parts of an observation, batch axis first, one after the other and within 0 to 1, shape (batch, numbers)."""
    flat = np.concatenate([np.asarray(part, dtype=np.float64).reshape(batch, -1) for part in parts], axis=1)
    return np.asarray(np.clip(flat, 0.0, 1.0), dtype=np.float32)


def require_control(scenario: Scenario, control: Control) -> None:
    """Raises ConfigurationError for a scenario of another kind."""
    if scenario.control != control:
        raise ConfigurationError(
            f"scenario {scenario.name} is for control of {scenario.control}, this environment is for {control}"
        )


def _reference_vehicles(scenario: Scenario, simulation: Simulation) -> float:
    """Vehicles on the road if the mean demand of the measured time met empty roads: the unit of rewards."""
    horizon, layout = scenario.horizon, simulation.layout
    periods = round(horizon.demand_end / 60)
    first = round(horizon.warm_up / 60)
    vehicles = 0.0
    for origin, profile in scenario.demand.profiles.items():
        mean = profile.means(periods, 60.0)[:, first:].mean(axis=1)
        vehicles += float(mean @ layout.free_travel_time[:, layout.links.index(origin)])
    return max(vehicles, 1.0)
