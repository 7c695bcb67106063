"""Callbacks that both sides of a cell train with; they know nothing of unbroken."""

import json
import os
from pathlib import Path

import numpy as np
from matrix_state import model_state
from stable_baselines3.common.callbacks import BaseCallback


class Meddling(BaseCallback):
    """A user's callback with state of many kinds that also changes the training: it shakes the policy now and then."""

    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(5)
        self.rewards = []
        self.by_outcome = {"good": 0, "bad": 0}
        self.average = np.zeros(2)
        self.threshold = float("inf")

    def _on_step(self):
        reward = float(np.mean(self.locals["rewards"]))
        self.rewards = [*self.rewards[-20:], reward]
        self.by_outcome["good" if reward > 0 else "bad"] += 1
        self.average += [reward, self.generator.random()]
        self.logger.record_mean("meddling/reward", reward)
        return True

    def _on_rollout_end(self):
        if self.generator.random() < 0.3:
            self.threshold = min(self.threshold, self.rewards[-1])
            parameter = next(self.model.policy.parameters())
            parameter.data += 1e-3 * float(self.generator.normal())


class FinalState(BaseCallback):
    """Writes the whole state of the training at the end of `learn()` to MATRIX_STATE. Has no state of its own."""

    def _on_step(self):
        return True

    def _on_training_end(self):
        state = model_state(self.model, self.locals["callback"].callbacks)
        path = Path(os.environ["MATRIX_STATE"]) / f"{self.model.num_timesteps}.json"
        path.write_text(json.dumps(state, indent=0))
