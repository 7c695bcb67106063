"""A planted defect: a second optimizer in a module global, or (argument `closure`) in a closure; its moments are lost."""

import sys

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create

optimizer = None


def nudger(policy):
    own = torch.optim.Adam(policy.action_net.parameters(), lr=1e-3)

    def nudge():
        step(own, policy)

    return nudge


def step(adam, policy):
    adam.zero_grad()
    sum(weight.square().sum() for weight in policy.action_net.parameters()).backward()
    adam.step()


class Regularising(BaseCallback):
    """After each rollout one step of its own towards small weights."""

    def __init__(self):
        super().__init__()
        self.nudge = None

    def _on_training_start(self):
        global optimizer
        if "closure" in sys.argv:
            self.nudge = nudger(self.model.policy)
        else:
            optimizer = torch.optim.Adam(self.model.policy.action_net.parameters(), lr=1e-3)

    def _on_rollout_end(self):
        if self.nudge is not None:
            self.nudge()
        else:
            step(optimizer, self.model.policy)

    def _on_step(self):
        return True


checkpoints = RotatingCheckpointCallback(save_freq=64, save_path="checkpoints", name_prefix="model")
model = resume_or_create(
    PPO, "MlpPolicy", "CartPole-v1", checkpoints, seed=3, n_steps=64, batch_size=64, n_epochs=1, device="cpu"
)
model.learn(512, callback=[Regularising(), checkpoints])
