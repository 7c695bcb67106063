"""Gymnasium environments of the three scenarios. Registered through Gymnasium's entry point: `gymnasium.make("unbroken/...")`."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from unbroken.errors import ConfigurationError
from unbroken.traffic.scenario import Scenario, load_scenario
from unbroken.traffic.tasks.base import Task, checked_actions
from unbroken.traffic.tasks.ramp import RampTask
from unbroken.traffic.tasks.signals import SignalTask
from unbroken.traffic.tasks.speed import SpeedTask

QUICK, FULL = 600.0, 3600.0  # s, horizons of comparisons
TRAINING = 3600.0  # s, one length for every training


class TrafficEnv(gymnasium.Env[NDArray[np.float32], NDArray[Any]]):
    """What the three environments share: one episode of a task.

    An episode begins after the warm-up and is truncated after `measured` and `drain` seconds; it never terminates. Its demand is
    drawn from the environment's generator at reset, so `reset(seed=s)` always gives the same arrivals, and a short episode sees
    the beginning of a long one's.
    """

    metadata = {  # noqa: RUF012 - Gymnasium declares it as an attribute of instances
        "render_modes": ["rgb_array"],
        "render_fps": 4,
    }
    task_class: ClassVar[type[Task]]
    default_scenario: ClassVar[str]

    def __init__(
        self,
        scenario: Scenario | str | None = None,
        measured: float = TRAINING,
        drain: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigurationError(f'render_mode must be "rgb_array" or None, not {render_mode!r}')
        chosen = self.default_scenario if scenario is None else scenario
        self.scenario = chosen if isinstance(chosen, Scenario) else load_scenario(chosen)
        self.render_mode = render_mode
        self.task = self.task_class(self.scenario, 1, measured, drain)
        self.observation_space = spaces.Box(0.0, 1.0, (self.task.n_observations,), np.float32)
        self.action_space = self.task.action_space
        self._begun = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """New demand, an empty network, and its warm-up."""
        super().reset(seed=seed)
        self.task.begin([self.np_random])
        self._begun = True
        return self.task.observe()[0], self._info()

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One decision of 15 s."""
        if not self._begun or self.task.over:
            raise gymnasium.error.ResetNeeded("the episode has not begun or is over: call reset() before step()")
        reward = self.task.decide(checked_actions(self.task.action_space, 1, np.asarray(action)[None]))
        return self.task.observe()[0], float(reward[0]), False, self.task.over, self._info()

    def action_masks(self) -> NDArray[np.bool_]:
        """Which choices are legal now, all parts of the action one after the other (as sb3-contrib's MaskablePPO wants them).

        Empty where the action is continuous.
        """
        return np.asarray(self.task.masks()[0])

    def get_state(self) -> dict[str, Any]:
        """Everything that changes, as plain data and arrays; some kilobytes. The generator of demand is included."""
        return {"task": self.task.get_state(), "generator": self.np_random.bit_generator.state, "begun": self._begun}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where `get_state` was called, in this or another process."""
        self.task.set_state(state["task"])
        self.np_random.bit_generator.state = state["generator"]
        self._begun = bool(state["begun"])

    def render(self) -> NDArray[np.uint8]:
        """A picture of the network with densities and queues, shape (height, width, 3)."""
        from unbroken.traffic.rendering import draw_network

        return draw_network(self.task.simulation)

    def _info(self) -> dict[str, Any]:
        simulation = self.task.simulation
        return {
            "time": simulation.time(),
            "vehicles": float(simulation.stored().sum()),
            "time_spent": float(simulation.time_spent().sum()),
            "left": float(simulation.left().sum()),
        }


class TrafficLightControlEnv(TrafficEnv):
    """Traffic lights on an avenue: which phase each node shows next.

    ## Description
    Four signalised cross-streets on an avenue of 1.9 km, two lanes each way (`scenarios/traffic_light_control.yaml`; any scenario
    with `control: signals` works). Motorcycles and cars arrive in Poisson counts per 60 s.

    ## Action space
    `MultiDiscrete`, one part for each signal, in the order of the scenario's nodes: the phase to show next. A phase lasts at
    least its minimal green (7 s) and at most its maximal green (75 s); between phases lie 3 s of yellow and 2 s of all-red. The
    simulator keeps these times: a change that comes too early does nothing, a phase that is too long goes over to the next.
    `action_masks()` says which choices are legal.

    ## Observation space
    `Box(0, 1)`, float32. With A arriving links and E leaving links (by signal, in the order of its movements), S signals:

    | numbers | what | 1 is |
    |---|---|---|
    | A | occupancy of the last 100 m before the stop line | 1.3, motorcycles stand |
    | A | occupancy of the whole link | 1.3 |
    | 2 A | mean speed of motorcycles and cars | the free speed or limit |
    | 2 A | vehicles slower than 5 km/h, motorcycles and cars | the link full of that class alone |
    | E | occupancy of the first 100 m of each leaving link | 1.3 |
    | phases of all signals | 1 for the phase that has green or gets it next | |
    | S | seconds since it opened | the maximal green |
    | S | 1 if it may end | |
    | 1 | time since the start | the end of the scenario's horizon |

    ## Reward
    - (vehicle seconds spent in the last 15 s, origin queues included, less those that the same arrivals would spend on empty roads)
    / (N x 15 s), with N the vehicles that would be on the road if the mean demand met empty roads. What is subtracted depends on
    arrivals alone, so the best policy is that of time spent, seen through less noise.

    ## Episode
    Starts after 900 s of warm-up under Webster's fixed-time plan; 3,600 s, 240 decisions, then truncated. `measured` and `drain`
    (s) set other lengths for comparisons. `reset(seed=...)` sets the arrivals.

    ## Version
    v0
    """

    task_class = SignalTask
    default_scenario = "traffic_light_control"


class RampMeteringEnv(TrafficEnv):
    """Ramp metering: how many vehicles an hour a ramp may let go.

    ## Description
    Four kilometres of a two-lane road with an on-ramp at 2.5 km that holds 300 m of queue (`scenarios/ramp_metering.yaml`; any
    scenario with `meters` works). Once the merge has broken down it passes about a tenth less.

    ## Action space
    `MultiDiscrete`, one part for each meter: 0 to 13 are 240 to 1,800 veh/h in steps of 120. All are legal.

    ## Observation space
    `Box(0, 1)`, float32. With D sections of 250 m (four before and four behind each merge), M meters:

    | numbers | what | 1 is |
    |---|---|---|
    | D | occupancy | cars stand |
    | 2 D | mean speed of motorcycles and cars | the free speed or limit |
    | M | occupancy of the ramp | cars stand |
    | M | vehicles that wait outside of the ramp, n / (n + ramp's storage) | infinitely many |
    | M | the rate | 1,800 veh/h |
    | 1 | time since the start | the end of the scenario's horizon |

    ## Reward
    That of `TrafficLightControlEnv` - 0.1 (vehicles outside of the ramp) / N.

    ## Episode
    As `TrafficLightControlEnv`, with open meters in the warm-up.

    ## Version
    v0
    """

    task_class = RampTask
    default_scenario = "ramp_metering"


class AdaptiveSpeedControlEnv(TrafficEnv):
    """Variable speed limits: what each zone before a bottleneck lets out.

    ## Description
    Six kilometres of a two-lane road with a bridge of one lane at 4.5 km, four zones of one kilometre before it
    (`scenarios/adaptive_speed_control.yaml`; any scenario with `zones` and `zone_flow_pcu_per_h` works). A queue before the bridge
    passes 12 % less than traffic that never queued.

    ## Action space
    `Box(-1, 1)`, one number for each zone: the flow that its end shall let out, from the lowest (-1) to the highest (1) of the
    scenario's `zone_flow_pcu_per_h`, here 1,500 to 2,600 passenger car units per hour. The zone's limit moves by at most 10 km/h
    towards the speed at which the density of its last 150 m passes that flow, within 30 to 60 km/h, and so on faster roads too.
    Limits are any km/h: steps of 10 cannot hold a flow just below capacity. The same action in all zones all the time is the
    baseline `holding`; none is exactly no control, as limits fall in a queue whatever is asked. `action_masks()` is empty.

    ## Observation space
    `Box(0, 1)`, float32. With D sections of 250 m on all links, Z zones:

    | numbers | what | 1 is |
    |---|---|---|
    | D | occupancy | cars stand |
    | 2 D | mean speed of motorcycles and cars | the free speed |
    | Z | the limit | 60 km/h; 0 is 30 km/h |
    | 1 | time since the start | the end of the scenario's horizon |

    ## Reward
    That of `TrafficLightControlEnv` - 0.001 (changes of all limits, in 10 km/h).

    ## Episode
    As `TrafficLightControlEnv`, with the highest limits in the warm-up.

    ## Version
    v0
    """

    task_class = SpeedTask
    default_scenario = "adaptive_speed_control"
