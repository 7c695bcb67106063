"""A network in time: B independent copies advanced by one kernel call; signals, meters and speed limits are set between calls."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unbroken.errors import ConfigurationError
from unbroken.traffic.layout import DEMAND_PERIOD, Layout
from unbroken.traffic.road_network import RoadNetwork, Signal
from unbroken.traffic.scheme.network import State, advance, advance_parallel

Floats = NDArray[np.float64]
_LONG_AGO = -1e9  # s


class Simulation:
    """`batch` copies of a network, empty at time 0.

    Arrays have the batch axis first, then classes (motorcycles, cars). The copies do not touch each other: row b is bit for bit
    what a batch of one with its demand and commands makes. Not thread-safe; different simulations may run in different threads.
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

        All copies have the same number of periods; the first call sets it.
        """
        values = np.asarray(flows, dtype=np.float64)
        expected = (2, len(self.network.origins))
        if values.ndim != 3 or values.shape[:2] != expected or values.shape[2] < 1:
            raise ConfigurationError(f"demand must have shape {expected} and periods, not {values.shape}")
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ConfigurationError("demand must be finite and at least 0 veh/s")
        if values.shape[2] != self.state.demand.shape[3]:
            self.state = self.state._replace(demand=np.zeros((self.batch, *values.shape)))
        self.state.demand[b] = values

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

    def phase(self, b: int = 0) -> NDArray[np.int64]:
        """The phase that has green or gets it next, of each signal of copy b."""
        return np.array(self.state.phases[b, 1])

    def green_time(self, b: int = 0) -> Floats:
        """s since the phase opened, of each signal; negative while it is still cleared for it."""
        return np.asarray(self.time(b) - self.state.switch[b, 1])

    def may_switch(self, b: int = 0) -> NDArray[np.bool_]:
        """Whether each signal has shown its phase for the minimal green."""
        shortest = np.array([self.signal(s).min_green for s in range(len(self.layout.signals))])
        return np.asarray(self.green_time(b) >= shortest - 1e-9)

    def must_switch(self, within: float, b: int = 0) -> NDArray[np.bool_]:
        """Whether each signal's phase would be longer than the maximal green if it went on for `within` s more."""
        longest = np.array([self.signal(s).max_green for s in range(len(self.layout.signals))])
        return np.asarray(self.green_time(b) + within > longest + 1e-9)

    def request(self, signal: int, phase: int, b: int = 0, at: float | None = None) -> bool:
        """Switch a signal to `phase` at `at` (s, from now to the end of the next step; default now). False: minimal green not
        over yet.

        Nothing happens for the phase that is shown already.
        """
        plan = self.signal(signal)
        if not 0 <= phase < len(plan.phases):
            raise ConfigurationError(
                f"signal {self.layout.signals[signal]} has phases 0 to {len(plan.phases) - 1}, not {phase}"
            )
        now = self.time(b)
        begin = now if at is None else max(now, at)
        if phase == self.state.phases[b, 1, signal]:
            return True
        if begin - self.state.switch[b, 1, signal] < plan.min_green - 1e-9:
            return False
        self.state.phases[b, 0, signal] = self.state.phases[b, 1, signal]
        self.state.phases[b, 1, signal] = phase
        self.state.switch[b, 0, signal] = begin + plan.end_gain
        self.state.switch[b, 1, signal] = begin + plan.clearance
        return True

    def request_all(self, phases: ArrayLike, b: int = 0) -> NDArray[np.bool_]:
        """Request a phase of every signal of copy b now, shape (signals,): as `request` for each, several times faster."""
        wanted = np.asarray(phases, dtype=np.int64)
        n_phases = self.layout.n_phases
        if wanted.shape != n_phases.shape or (wanted < 0).any() or (wanted >= n_phases).any():
            raise ConfigurationError(
                f"phases must be from 0 to {(n_phases - 1).tolist()} of each signal, not {wanted.tolist()}"
            )
        now = self.time(b)
        shown, switch = self.state.phases[b], self.state.switch[b]
        min_green, end_gain, clearance = self.layout.signal_times
        new = wanted != shown[1]
        change = new & (now - switch[1] >= min_green - 1e-9)
        np.copyto(shown[0], shown[1], where=change)
        np.copyto(shown[1], wanted, where=change)
        np.copyto(switch[0], now + end_gain, where=change)
        np.copyto(switch[1], now + clearance, where=change)
        return np.asarray(change | ~new)

    # Meters and speed limits

    def set_rate(self, meter: int, rate: float, b: int = 0) -> None:
        """Let at most `rate` veh/s pass the meter's link end."""
        if not rate >= 0:
            raise ConfigurationError(f"a meter's rate must be at least 0, not {rate}")
        self.state.rates[b, meter] = rate

    def set_limit(self, link: str, limit: float, b: int = 0) -> None:
        """Speed limit of a link, m/s; never above the link's own."""
        if not limit > 0:
            raise ConfigurationError(f"a speed limit must be above 0, not {limit}")
        slots = self.layout.slots(link)
        self.state.limit[b, slots] = np.minimum(limit, self.layout.speed_limit[slots])

    # What is seen

    def density(self, link: str, b: int = 0) -> Floats:
        """veh/m per lane, shape (2, cells)."""
        return self.state.cells[b, :2, self.layout.slots(link)].copy()

    def w(self, link: str, b: int = 0) -> Floats:
        """w in m/s, shape (2, cells); the free speed where a class is absent."""
        cells = self.state.cells[b][:, self.layout.slots(link)]
        filled = cells[:2] > 0
        return np.where(filled, cells[2:] / np.where(filled, cells[:2], 1.0), self.layout.law.w_free[:, None])

    def occupancy(self, link: str, b: int = 0) -> Floats:
        """r of each cell; 1 means that cars stand."""
        return np.asarray(self.layout.law.lengths @ self.density(link, b))

    def speed(self, link: str, b: int = 0) -> Floats:
        """m/s, shape (2, cells)."""
        law = self.layout.law
        x = self.occupancy(link, b) / law.greatest[:, None]
        return np.asarray(
            np.maximum(0.0, self.w(link, b) - law.c[:, None] * x ** (1.0 if law.gamma is None else law.gamma))
        )

    def stored(self) -> Floats:
        """Vehicles in the network and its origin queues, shape (B, 2)."""
        return np.asarray(self.state.cells[:, :2] @ self.layout.lane_length + self.state.waiting.sum(axis=2))

    def arrived(self) -> Floats:
        """Vehicles that have come to origins since the start, shape (B, 2)."""
        return np.asarray(self.state.arrived.sum(axis=2))

    def left(self) -> Floats:
        """Vehicles that have left through sinks, shape (B, 2)."""
        arrays = self.layout.arrays
        faces = arrays.last[arrays.sink_link] + 1
        return np.asarray(self.state.passed[:, :, faces] @ arrays.lanes[arrays.sink_link])

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
            if shape != own and not (name == "demand" and shape[:3] == own[:3]):
                raise ConfigurationError(f"state {name} has shape {shape}, this network needs {own}")
        self.state = State(**{name: np.array(value, dtype=expected[name].dtype) for name, value in state.items()})


def periods(duration: float) -> int:
    """How many demand periods cover `duration` s."""
    return max(1, math.ceil(duration / DEMAND_PERIOD - 1e-9))
