"""A planted defect: a process that resumes computes with another number of threads, set after the stored one is enforced."""

from pathlib import Path

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create


class LargeSum(BaseCallback):
    """What a large sum comes to depends on how many threads share it."""

    def _on_rollout_end(self):
        self.model.ent_coef = 1e-9 * float(torch.linspace(-1, 1, 1_000_001).exp().sum())

    def _on_step(self):
        return True


resumed = any(Path("checkpoints").glob("*.zip"))
torch.set_num_threads(1)
checkpoints = RotatingCheckpointCallback(save_freq=64, save_path="checkpoints", name_prefix="model")
model = resume_or_create(
    PPO, "MlpPolicy", "CartPole-v1", checkpoints, seed=3, n_steps=64, batch_size=64, n_epochs=1, device="cpu"
)
torch.set_num_threads(2 if resumed else 1)
model.learn(512, callback=[LargeSum(), checkpoints])
