"""A planted defect: a callback counts in an attribute of its class, where no capture looks."""

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create


class Annealing(BaseCallback):
    rollouts = 0

    def _on_rollout_end(self):
        Annealing.rollouts += 1
        self.model.ent_coef = 0.1 / Annealing.rollouts

    def _on_step(self):
        return True


checkpoints = RotatingCheckpointCallback(save_freq=64, save_path="checkpoints", name_prefix="model")
model = resume_or_create(
    PPO, "MlpPolicy", "CartPole-v1", checkpoints, seed=3, n_steps=64, batch_size=64, n_epochs=1, device="cpu"
)
model.learn(512, callback=[Annealing(), checkpoints])
