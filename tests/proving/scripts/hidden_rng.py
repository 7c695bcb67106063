"""A planted defect: the environment draws from a generator in a module global, or (argument `closure`) in a closure."""

import sys

import gymnasium
import numpy as np
from stable_baselines3 import PPO

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create

rng = np.random.default_rng(5)


def global_noise():
    return rng.standard_normal(4)


def closure_noise():
    hidden = np.random.default_rng(5)

    def noise():
        return hidden.standard_normal(4)

    return noise


class Noisy(gymnasium.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.noise = closure_noise() if "closure" in sys.argv else global_noise

    def observation(self, observation):
        return (observation + 0.01 * self.noise()).astype(np.float32)


checkpoints = RotatingCheckpointCallback(save_freq=64, save_path="checkpoints", name_prefix="model")
env = Noisy(gymnasium.make("CartPole-v1"))
model = resume_or_create(
    PPO, "MlpPolicy", env, checkpoints, seed=3, n_steps=64, batch_size=64, n_epochs=1, device="cpu"
)
model.learn(512, callback=checkpoints)
