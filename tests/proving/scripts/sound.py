"""A sound script: state and generators are attributes of the environment and of the callback."""

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create

LOOKED_AT = []


class Noisy(gymnasium.ObservationWrapper):
    """Draws from a generator of its own."""

    def __init__(self, env):
        super().__init__(env)
        self.random = np.random.default_rng(5)

    def observation(self, observation):
        return (observation + 0.01 * self.random.standard_normal(4)).astype(np.float32)


class Annealing(BaseCallback):
    """Counts rollouts and lowers the entropy bonus with them; a global that nothing depends on grows too."""

    def __init__(self):
        super().__init__()
        self.rollouts = 0

    def _on_rollout_end(self):
        self.rollouts += 1
        self.model.ent_coef = 0.1 / self.rollouts
        LOOKED_AT.append(self.rollouts)

    def _on_step(self):
        return True


env = VecNormalize(DummyVecEnv([lambda: Noisy(gymnasium.make("CartPole-v1"))]))
checkpoints = RotatingCheckpointCallback(save_freq=64, save_path="checkpoints", name_prefix="sound")
model = resume_or_create(
    PPO, "MlpPolicy", env, checkpoints, seed=3, n_steps=64, batch_size=64, n_epochs=2, device="cpu"
)
model.learn(640, callback=[Annealing(), checkpoints])
model.save("sound_final")
