"""A script as people write them: VecNormalize, TensorBoard, EvalCallback, a callback with state, two learn() calls."""

import os

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create


class Curiosity(BaseCallback):
    """Draws random numbers, keeps a history, and changes the training with both."""

    def __init__(self):
        super().__init__()
        self.random = np.random.default_rng(7)
        self.history = []

    def _on_step(self):
        self.history.append(float(self.random.random()))
        return True

    def _on_rollout_end(self):
        self.model.ent_coef = 0.9 * self.model.ent_coef + 0.01 * float(np.mean(self.history[-50:]))


class SlowEnv(gymnasium.Wrapper):
    """Gives the test time to kill."""

    def step(self, action):
        if os.environ.get("SLOW") and (pause := float(os.environ["SLOW"])):
            import time

            time.sleep(pause)
        return self.env.step(action)


def make():
    return SlowEnv(gymnasium.make("CartPole-v1"))


env = VecNormalize(make_vec_env(make, n_envs=2, seed=3))
checkpoints = RotatingCheckpointCallback(save_freq=64, save_path="checkpoints", name_prefix="model", max_keep=2)
model = resume_or_create(
    PPO, "MlpPolicy", env, checkpoints, seed=3, n_steps=64, batch_size=64, n_epochs=2, tensorboard_log="tb",
)  # fmt: skip
curiosity = Curiosity()
evaluation = VecNormalize(
    DummyVecEnv([lambda: Monitor(gymnasium.make("CartPole-v1"))]), training=False, norm_reward=False
)
evaluation.seed(11)
callbacks = [
    EvalCallback(evaluation, n_eval_episodes=2, eval_freq=96, log_path="evaluations", verbose=0),
    curiosity,
    checkpoints,
]
model.learn(512, callback=callbacks, tb_log_name="first")
print("FIRST DONE", model.num_timesteps, flush=True)
model.learn(384, callback=callbacks, tb_log_name="first", reset_num_timesteps=False)
print("SECOND DONE", model.num_timesteps, len(curiosity.history), flush=True)
