"""A planted defect: a process that resumes computes with another number of threads, set after the stored one is enforced."""

from pathlib import Path

import torch
from stable_baselines3 import PPO

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create

resumed = any(Path("checkpoints").glob("*.zip"))
torch.set_num_threads(1)
checkpoints = RotatingCheckpointCallback(save_freq=512, save_path="checkpoints", name_prefix="model")
model = resume_or_create(
    PPO,
    "MlpPolicy",
    "CartPole-v1",
    checkpoints,
    seed=3,
    n_steps=512,
    batch_size=512,
    n_epochs=2,
    policy_kwargs={"net_arch": [512, 512]},
    device="cpu",
)
torch.set_num_threads(3 if resumed else 1)
model.learn(4096, callback=checkpoints)
