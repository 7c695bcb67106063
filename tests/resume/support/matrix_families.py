"""Real environments for the matrix, one or two of each family, with short episodes; they know nothing of unbroken's training."""

import importlib.util
import os
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces
from matrix_state import flat

# simulators, what only draws, and sets whose order differs from process to process
_NOT_WALKED = {
    "env", "spec", "_cached_spec", "model", "data", "mujoco_renderer", "ale", "_action_set", "sumo", "traffic_signals",
    "label", "additional_sumo_cmd", "close", "reset", "world", "lander", "hull", "legs", "joints", "moon", "drawlist",
    "particles", "lidar", "terrain", "fd_polygon", "fd_edge", "contactListener",
}  # fmt: skip


class Masked(gymnasium.Wrapper):
    """Every action is allowed: MaskablePPO asks."""

    def action_masks(self):
        return np.ones(self.action_space.n, dtype=bool)


class FreshWorld(gymnasium.Wrapper):
    """A new Box2D world for every episode; what `unbroken.wrappers.FreshWorld` is, written for a plain script."""

    def __init__(self, env):
        super().__init__(env)
        base = env.unwrapped

        def reset(*, seed=None, options=None):
            base._destroy()
            base.world = type(base.world)(gravity=base.world.gravity)
            return type(base).reset(base, seed=seed, options=options)

        base.reset = reset


def classic_control(continuous):
    return gymnasium.make("Pendulum-v1" if continuous else "CartPole-v1", max_episode_steps=40)


def box2d(continuous):
    return gymnasium.make("LunarLander-v3", continuous=continuous, enable_wind=True, max_episode_steps=60)


def walker(continuous):
    return FreshWorld(gymnasium.make("BipedalWalker-v3", max_episode_steps=60))


def mujoco(continuous):
    return gymnasium.make("Hopper-v5", max_episode_steps=40)


def humanoid(continuous):
    return gymnasium.make("Humanoid-v5", max_episode_steps=40)


def atari(continuous):
    import ale_py
    from stable_baselines3.common.atari_wrappers import AtariWrapper

    gymnasium.register_envs(ale_py)
    # frames, of which an action takes four
    env = gymnasium.make("BreakoutNoFrameskip-v4", repeat_action_probability=0.25, max_episode_steps=160)
    return AtariWrapper(env, screen_size=36)


def sumo(continuous):
    if "SUMO_HOME" not in os.environ:
        os.environ["SUMO_HOME"] = str(Path(importlib.util.find_spec("sumo").origin).parent)
    from sumo_rl import SumoEnvironment

    folder = Path(importlib.util.find_spec("sumo_rl").origin).parent / "nets" / "single-intersection"
    return SumoEnvironment(
        net_file=str(folder / "single-intersection.net.xml"),
        route_file=str(folder / "single-intersection.rou.xml"),
        single_agent=True,
        num_seconds=200,
        sumo_warnings=False,
    )


def traffic(continuous):
    from unbroken.traffic import environments

    if continuous:
        return environments.AdaptiveSpeedControlEnv(measured=600.0)
    return environments.TrafficLightControlEnv(measured=600.0)


FAMILIES = {
    "classic control": classic_control,
    "Box2D": box2d,
    "BipedalWalker": walker,
    "MuJoCo": mujoco,
    "Humanoid": humanoid,
    "Atari": atari,
    "SUMO": sumo,
    "traffic": traffic,
}


def make(family, continuous):
    """An environment of a family; `continuous` where it has both kinds of actions."""
    env = FAMILIES[family](continuous)
    return Masked(env) if isinstance(env.action_space, spaces.Discrete) else env


def layer_state(layer):
    """Every bit of a layer's attributes, and of the simulator below the base environment."""
    found = flat(vars(layer), type(layer).__name__, skip=_NOT_WALKED)
    if not isinstance(layer, gymnasium.Wrapper):
        found.update(flat(_simulator(layer), "simulator"))
    return found


def _simulator(base):
    if hasattr(base, "ale"):
        return {"emulator": base.ale.cloneState(include_rng=True).serialize()}
    if type(getattr(base, "data", None)).__name__ == "MjData":
        names = (name for name in dir(base.data) if not name.startswith("_"))
        arrays = {name: getattr(base.data, name, None) for name in names}
        return {
            name: value for name, value in arrays.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        }
    if hasattr(base, "traffic_signals"):
        return _traffic(base)
    if hasattr(base, "world"):
        return {str(k): _body(body) for k, body in enumerate(base.world.bodies)}
    return {}


def _traffic(base):
    if base.sumo is None:
        return {}
    vehicles = base.sumo.vehicle
    asked = ("getLaneID", "getLanePosition", "getSpeed", "getAccumulatedWaitingTime", "getLateralLanePosition")
    signals = {
        name: [signal.green_phase, signal.is_yellow, signal.time_since_last_phase_change, signal.next_action_time,
               signal.last_measure, base.sumo.trafficlight.getRedYellowGreenState(name)]
        for name, signal in base.traffic_signals.items()
    }  # fmt: skip
    return {"time": base.sumo.simulation.getTime(), "signals": signals} | {
        vehicle: [getattr(vehicles, name)(vehicle) for name in asked] for vehicle in sorted(vehicles.getIDList())
    }


def _body(body):
    return [*body.position, body.angle, *body.linearVelocity, body.angularVelocity, body.awake]
