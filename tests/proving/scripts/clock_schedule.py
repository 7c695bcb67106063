"""A planted defect: the learning rate falls with the time of day instead of with the steps."""

import math
import time

from stable_baselines3 import PPO

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create

STARTED = time.monotonic()


def falling(progress_remaining):
    return 1e-3 * math.exp(-(time.monotonic() - STARTED) / 60)


checkpoints = RotatingCheckpointCallback(save_freq=64, save_path="checkpoints", name_prefix="model")
model = resume_or_create(
    PPO,
    "MlpPolicy",
    "CartPole-v1",
    checkpoints,
    learning_rate=falling,
    seed=3,
    n_steps=64,
    batch_size=64,
    n_epochs=1,
    device="cpu",
)
model.learn(512, callback=checkpoints)
