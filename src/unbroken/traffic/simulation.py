"""A network in time: B independent copies advanced by one kernel call; signals, meters and speed limits are set between calls."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unbroken.errors import ConfigurationError
from unbroken.traffic.layout import Layout
from unbroken.traffic.road_network import RoadNetwork, Signal
from unbroken.traffic.scheme.network import State, advance, advance_parallel
from unbroken.traffic.scheme.signals import switch

Floats = NDArray[np.float64]
_LONG_AGO = -1e9  # s
TOLERANCE = 1e-9  # s, of comparisons between times that are multiples of the step


class Simulation:
    """`batch` copies of a network, empty at time 0.

    Arrays have the batch axis first, then classes (motorcycles, cars). The copies do not touch each other: row b is bit for bit
    what a batch of one with its demand and commands makes. Not thread-safe; different simulations may run in different threads, of
    those with `parallel` (numba's own threads) only one at a time.
    """

    def __init__(self, network: RoadNetwork, batch: int = 1, *, parallel: bool = False) -> None:
        if batch < 1:
            raise ConfigurationError(f"batch must be at least 1, not {batch}")
        self.layout = Layout(network)
        self.parallel = parallel
        slots, signals = self.layout.n_slots, len(self.layout.signals)
        origins, meters = len(network.origins), len(network.meters)
        self.state = State(
            step=np.zeros(batch, dtype=np.int64),
            cells=np.zeros((batch, 4, slots)),
            waiting=np.zeros((batch, 2, origins)),
            arrived=np.zeros((batch, 2, origins)),
            arrived_rest=np.zeros((batch, 2, origins)),
            left=np.zeros((batch, 2, len(network.sinks))),
            left_rest=np.zeros((batch, 2, len(network.sinks))),
            waited=np.zeros((batch, 2, origins)),
            passed=np.zeros((batch, 2, slots + 1)),
            present=np.zeros((batch, 2, slots)),
            phases=np.zeros((batch, 2, signals), dtype=np.int64),
            switch=np.full((batch, 2, signals), _LONG_AGO),
            rates=np.full((batch, meters), np.inf),
            limit=np.tile(self.layout.speed_limit, (batch, 1)),
            demand=np.zeros((batch, 2, origins, 1)),
        )

    @property
    def network(self) -> RoadNetwork:
        return self.layout.network

    @property
    def batch(self) -> int:
        return len(self.state.step)

    def time(self, b: int = 0) -> float:
        """s since the start of copy b."""
        return float(self.state.step[b] * self.network.step)

    def set_demand(self, b: int, flows: ArrayLike) -> None:
        """Arrivals of copy b from now on: veh/s, shape (2, origins, periods) of 60 s from time 0; the last period goes on for ever.

        Copies may have different numbers of periods.
        """
        if not 0 <= b < self.batch:
            raise ConfigurationError(f"there are copies 0 to {self.batch - 1}, not {b}")
        values = np.asarray(flows, dtype=np.float64)
        expected = (2, len(self.network.origins))
        if values.ndim != 3 or values.shape[:2] != expected or values.shape[2] < 1:
            raise ConfigurationError(f"demand must have shape {expected} and periods, not {values.shape}")
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ConfigurationError("demand must be finite and at least 0 veh/s")
        longest = max(values.shape[2], self.state.demand.shape[3])
        self.state = self.state._replace(demand=_prolonged(self.state.demand, longest))
        self.state.demand[b] = _prolonged(values, longest)

    def n_steps(self, duration: float) -> int:
        """Steps in `duration` s, which must be a multiple of the step."""
        steps = round(duration / self.network.step)
        if duration < 0 or not math.isclose(steps * self.network.step, duration, abs_tol=1e-6):
            raise ConfigurationError(f"{duration:g} s is not a multiple of the step of {self.network.step:g} s")
        return steps

    def advance(self, duration: float) -> None:
        """Simulate `duration` s of every copy."""
        run = advance_parallel if self.parallel else advance
        run(self.layout.arrays, self.layout.law, self.state, self.n_steps(duration))

    # Signals

    def signal(self, index: int) -> Signal:
        signal = self.network.nodes[self.layout.signals[index]].signal
        assert signal is not None
        return signal

    @cached_property
    def _signals(self) -> SignalTimes:
        return SignalTimes.of([self.signal(s) for s in range(len(self.layout.signals))])

    def times(self) -> Floats:
        """s since the start of each copy, shape (B,)."""
        return np.asarray(self.state.step * self.network.step)

    def phases(self) -> NDArray[np.int64]:
        """The phase that has green or gets it next, shape (B, signals)."""
        return np.array(self.state.phases[:, 1])

    def green_times(self) -> Floats:
        """s since the phase opened, shape (B, signals); negative while the one before it is cleared."""
        return np.asarray(self.times()[:, None] - self.state.switch[:, 1])

    def may_switch(self) -> NDArray[np.bool_]:
        """Whether each signal has shown its phase for the minimal green, shape (B, signals)."""
        return np.asarray(self.green_times() >= self._signals.min_green - TOLERANCE)

    def must_switch(self, within: float) -> NDArray[np.bool_]:
        """Whether the phase would be longer than the maximal green if it went on for `within` s more, shape (B, signals)."""
        return np.asarray(self.green_times() + within > self._signals.max_green + TOLERANCE)

    def request(self, phases: ArrayLike, at: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Switch signals to `phases`, (B, signals) or what broadcasts to it, at the times `at` (s; default and least: now).

        A signal whose phase is asked for already goes on. One whose minimal green is not over at that time goes on too, and so does
        one with a change still to come. Returns which now show, or will, what was asked for.
        """
        shape = (self.batch, len(self.layout.signals))
        wanted, begin, done = np.empty(shape, dtype=np.int64), np.empty(shape), np.empty(shape, dtype=np.bool_)
        try:
            wanted[...] = phases
        except ValueError:
            raise ConfigurationError(
                f"phases of shape {np.shape(phases)} do not fit (batch, signals) {shape}"
            ) from None
        if (wanted < 0).any() or (wanted >= self._signals.n_phases).any():
            raise ConfigurationError(
                f"phases must be from 0 to {self._signals.n_phases - 1} of {', '.join(self.layout.signals)}"
            )
        if at is not None and not np.isfinite(at).all():
            raise ConfigurationError("times of requests must be finite")
        begin[...] = self.times()[:, None]
        if at is not None:
            np.maximum(begin, at, out=begin)
        times = self._signals
        shortest = times.min_green - TOLERANCE
        switch(self.state.phases, self.state.switch, wanted, begin, shortest, times.end_gain, times.clearance, done)
        return done

    # Meters and speed limits

    def set_rates(self, rates: ArrayLike) -> None:
        """Let at most `rates` veh/s pass the ends of metered links; shape (B, meters) or one that broadcasts to it."""
        values = np.asarray(rates, dtype=np.float64)
        if not (values >= 0).all():
            raise ConfigurationError("a meter's rate must be at least 0 veh/s")
        self.state.rates[:] = values

    def set_limit(self, link: str, limit: ArrayLike) -> None:
        """Speed limit of a link in m/s, one or one of each copy, shape (B,); never above the link's own."""
        values = np.asarray(limit, dtype=np.float64)
        if not (values > 0).all():
            raise ConfigurationError("a speed limit must be above 0 m/s")
        slots = self.layout.slots(link)
        self.state.limit[:, slots] = np.minimum(
            np.broadcast_to(values, (self.batch,))[:, None], self.layout.speed_limit[slots]
        )

    def restart(self) -> None:
        """Back to an empty network at time 0, with the demand as it is; meters and speed limits as at first."""
        for values in self.state:
            if values is not self.state.demand:
                values[...] = 0
        self.state.switch[...] = _LONG_AGO
        self.state.rates[...] = np.inf
        self.state.limit[...] = self.layout.speed_limit

    # What is seen

    def density(self, link: str, b: int = 0) -> Floats:
        """veh/m per lane, shape (2, cells)."""
        return self.state.cells[b, :2, self.layout.slots(link)].copy()

    def occupancy(self, link: str, b: int = 0) -> Floats:
        """r of each cell; 1 means that cars stand."""
        return np.asarray(self.layout.law.lengths @ self.density(link, b))

    def speed(self, link: str, b: int = 0) -> Floats:
        """m/s, shape (2, cells)."""
        return self.speeds(b)[:, self.layout.slots(link)]

    def speeds(self, b: int = 0) -> Floats:
        """m/s of all slots, shape (2, slots); where a class is absent, the speed that one vehicle of it would have."""
        law, cells = self.layout.law, self.state.cells[b]
        filled = cells[:2] > 0
        w = np.where(filled, cells[2:] / np.where(filled, cells[:2], 1.0), law.w_free[:, None])
        x = (law.lengths @ cells[:2]) * law.per_greatest[:, None]
        return np.asarray(np.maximum(0.0, w - law.c[:, None] * x ** (1.0 if law.gamma is None else law.gamma)))

    def stored(self) -> Floats:
        """Vehicles in the network and its origin queues, shape (B, 2)."""
        return np.asarray(self.state.cells[:, :2] @ self.layout.lane_length + self.state.waiting.sum(axis=2))

    def arrived(self) -> Floats:
        """Vehicles that have come to origins since the start, shape (B, 2)."""
        return np.asarray(self.state.arrived.sum(axis=2))

    def left(self) -> Floats:
        """Vehicles that have left through sinks, shape (B, 2)."""
        return np.asarray(self.state.left.sum(axis=2))

    def time_spent(self) -> Floats:
        """veh s spent in the network and in origin queues since the start, shape (B, 2)."""
        return np.asarray(self.state.present @ self.layout.lane_length + self.state.waited.sum(axis=2))

    def distance(self) -> Floats:
        """veh m driven since the start, shape (B, 2): the mean of what passed both faces of a cell times its length."""
        return np.asarray(0.5 * (self.state.passed[:, :, 1:] + self.state.passed[:, :, :-1]) @ self.layout.lane_length)

    def free_time(self) -> Floats:
        """veh s that the same distance takes at free speed or the link's own limit, shape (B, 2)."""
        mean = 0.5 * (self.state.passed[:, :, 1:] + self.state.passed[:, :, :-1])
        return np.asarray(np.einsum("bki,ki->bk", mean, self.layout.lane_length / self.layout.free_speed))

    def imbalance(self) -> float:
        """Greatest |arrived - left - stored| of any copy and class, in vehicles; rounding only."""
        return float(np.abs(self.arrived() - self.left() - self.stored()).max())

    # State

    def get_state(self) -> dict[str, Any]:
        """Everything that changes, as arrays of its own."""
        return copy.deepcopy(self.state._asdict())

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_state` of a simulation of the same network and batch gave."""
        expected = self.state._asdict()
        if set(state) != set(expected):
            raise ConfigurationError(f"the state has {sorted(state)}, a simulation has {sorted(expected)}")
        for name, value in state.items():
            shape, own = np.shape(value), expected[name].shape
            if shape != own and not (name == "demand" and shape[:3] == own[:3] and len(shape) == 4 and shape[3] >= 1):
                raise ConfigurationError(f"state {name} has shape {shape}, this network needs {own}")
        self.state = State(**{name: np.array(value, dtype=expected[name].dtype) for name, value in state.items()})


def _prolonged(flows: Floats, n_periods: int) -> Floats:
    """The last period repeated up to `n_periods`; the array itself if it has as many."""
    missing = n_periods - flows.shape[-1]
    return np.concatenate([flows, np.repeat(flows[..., -1:], missing, axis=-1)], axis=-1) if missing else flows


@dataclass(frozen=True)
class SignalTimes:
    """Times of all signals as arrays, s."""

    min_green: Floats
    max_green: Floats
    end_gain: Floats
    clearance: Floats
    n_phases: NDArray[np.int64]

    @classmethod
    def of(cls, signals: list[Signal]) -> SignalTimes:
        return cls(
            min_green=np.array([s.min_green for s in signals], dtype=np.float64),
            max_green=np.array([s.max_green for s in signals], dtype=np.float64),
            end_gain=np.array([s.end_gain for s in signals], dtype=np.float64),
            clearance=np.array([s.clearance for s in signals], dtype=np.float64),
            n_phases=np.array([len(s.phases) for s in signals], dtype=np.int64),
        )
