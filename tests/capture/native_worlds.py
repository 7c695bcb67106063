"""Environments of users over real simulators; and a target for each that the self-test's processes can make."""

import gymnasium
import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

from unbroken.wrappers import FreshWorld


class Randomised(HalfCheetahEnv):
    """A user's cheetah: every episode has its own masses, friction, gravity and time step, and it keeps views of the simulation."""

    def __init__(self, **words):
        super().__init__(**words)
        self.torso = self.data.body("torso")
        self.place = self.data.qpos
        self.pushes = 0

    def reset_model(self):
        self.model.body_mass[1:] *= self.np_random.uniform(0.9, 1.1, self.model.nbody - 1)
        self.model.geom_friction[:, 0] = self.np_random.uniform(0.3, 0.6)
        self.model.opt.gravity[2] = self.np_random.uniform(-11, -8)
        self.model.opt.timestep = self.np_random.uniform(0.009, 0.011)
        self.pushes = 0
        return super().reset_model()

    def step(self, action):
        self.pushes += 1
        self.data.xfrc_applied[1, 0] = 5.0 * self.np_random.normal()
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward + float(self.torso.xpos[0] + self.place[1]), terminated, self.pushes > 70, info


class Recompiling(HalfCheetahEnv):
    """A user's cheetah with another model in every episode: one body more or less."""

    def reset_model(self):
        import mujoco

        spec = mujoco.MjSpec()
        ball = spec.worldbody.add_body(pos=[0, 0, 1])
        ball.add_freejoint()
        ball.add_geom(size=[0.1, 0.1, 0.1])
        for k in range(int(self.np_random.integers(1, 4))):
            spec.worldbody.add_geom(name=f"stone{k}", size=[0.1, 0.1, 0.1], pos=[3.0 + k, 0, 0])
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        return self.data.qpos.copy()


def walker(hardcore=False):
    return FreshWorld(gymnasium.make("BipedalWalker-v3", hardcore=hardcore))


def atari(game="PongNoFrameskip-v4", sticky=0.25):
    import ale_py
    from stable_baselines3.common.atari_wrappers import AtariWrapper

    gymnasium.register_envs(ale_py)
    return gymnasium.wrappers.FrameStackObservation(
        AtariWrapper(gymnasium.make(game, repeat_action_probability=sticky)), 4
    )


def played(env, steps, seed=5):
    """Observations, rewards and ends of so many steps; episodes that end are reset."""
    actions = np.random.default_rng(seed)
    rows = []
    for _ in range(steps):
        space = env.action_space
        discrete = isinstance(space, gymnasium.spaces.Discrete)
        action = int(actions.integers(space.n)) if discrete else actions.uniform(space.low, space.high).astype("f4")
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.append((np.asarray(observation).tobytes(), float(reward), terminated, truncated))
        if terminated or truncated:
            rows.append(np.asarray(env.reset()[0]).tobytes())
    return rows
