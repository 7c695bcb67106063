"""A small training in a script of one's own that dies in mid-rollout, to be resumed and held against one that did not."""

import contextlib

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create

STEPS = 256
KILL_AT = 230


class Killed(Exception):
    pass


class Dies(BaseCallback):
    """Leaves the training when it comes to `at` steps, set on the class: what an instance holds is state."""

    at = None

    def _on_step(self):
        if Dies.at is not None and self.num_timesteps >= Dies.at:
            raise Killed
        return True


def trained(folder, algorithm=PPO, callback=Dies, **words):
    """A model after `STEPS` steps, or as far as it came, with a checkpoint in the folder every 64 steps."""
    arguments = {"seed": 0, "n_steps": 64, "batch_size": 64, "n_epochs": 2, "device": "cpu", **words}
    keeper = RotatingCheckpointCallback(64, folder, "state")
    model = resume_or_create(algorithm, "MlpPolicy", "CartPole-v1", keeper, **arguments)
    return model.learn(STEPS, callback=[callback(), keeper])


@contextlib.contextmanager
def dying():
    """Trainings inside raise Killed in mid-rollout, after their third checkpoint; the block must do so."""
    Dies.at = KILL_AT
    try:
        yield
    except Killed:
        return
    finally:
        Dies.at = None
    raise AssertionError("the training was not killed")


def weights(model):
    return torch.cat([value.reshape(-1) for value in model.policy.state_dict().values()])
