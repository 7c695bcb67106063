"""A sound script with worker processes: nobody seeds their global generators, and nothing draws from them."""

import gymnasium
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv

from unbroken.sb3 import CaptureWrapper, RotatingCheckpointCallback, resume_or_create


def make():
    return CaptureWrapper(Monitor(gymnasium.make("CartPole-v1")))


if __name__ == "__main__":
    env = SubprocVecEnv([make, make])
    checkpoints = RotatingCheckpointCallback(save_freq=64, save_path="checkpoints", name_prefix="workers")
    model = resume_or_create(
        PPO, "MlpPolicy", env, checkpoints, seed=1, n_steps=64, batch_size=64, n_epochs=1, device="cpu"
    )
    model.learn(768, callback=checkpoints)
    env.close()
