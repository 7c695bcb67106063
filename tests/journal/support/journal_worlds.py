"""Slow environments, each with a way of its own to keep or hide its state, and callbacks that look into them.

How long a step takes and where steps are counted is said by environment variables, so that an undisturbed twin of the same
configuration need not be slow.
"""

import os
import random
import time

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback


class Drifting(gymnasium.Env):
    """A noisy walk in episodes of random length, whose state can be had: `get_state`, `set_state`."""

    def __init__(self):
        self.observation_space = spaces.Box(-10.0, 10.0, (3,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.place, self.steps, self.length, self.wind = 0.0, 0, 10, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps, self.length = float(self.np_random.normal()), 0, int(self.np_random.integers(5, 25))
        return self.seen(), {}

    def seen(self):
        return np.array([np.clip(self.place, -9, 9), self.steps / 25, self.length / 25], np.float32)

    def noise(self):
        return float(self.np_random.normal())

    def step(self, action):
        time.sleep(float(os.environ.get("WORLD_SECONDS", "0")))
        if "WORLD_COUNT" in os.environ:
            with open(os.environ["WORLD_COUNT"], "ab") as file:
                file.write(b".")
        self.steps += 1
        self.place += (int(action) - 1) * 0.3 + 0.1 * self.noise() + self.wind
        return self.seen(), -abs(self.place), self.steps >= self.length, False, {"place": self.place}

    def gust(self, strength):
        self.wind = strength * self.noise()
        return {"wind": np.float64(self.wind), "parts": (1, "a", None)}

    def get_state(self):
        return {"place": self.place, "steps": self.steps, "length": self.length, "wind": self.wind}

    def set_state(self, state):
        for name, value in state.items():
            setattr(self, name, value)


class Masked(Drifting):
    """Forbids an action that depends on the state."""

    def action_masks(self):
        return np.array([self.place > -1.0, True, self.place < 1.0])


class Drawing(Drifting):
    """Draws from numpy's and Python's global generators, as the learner does."""

    def noise(self):
        return float(np.random.normal()) + random.random() - 0.5


class Closed(gymnasium.Env):
    """A walk inside a running function: only a replay of the actions leads there."""

    def __init__(self):
        self.observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._walk = self._walking(float(self.np_random.normal()))
        return np.array([next(self._walk), 0.0], np.float32), {}

    def _walking(self, place):
        for number in range(1000):
            place += yield float(np.clip(place, -9, 9))
            place += 0.001 * number

    def step(self, action):
        Drifting.step(_Counted(), 1)
        place = self._walk.send((int(action) - 1) * 0.3 + 0.1 * float(self.np_random.normal()))
        return np.array([place, 0.0], np.float32), -abs(place), bool(self.np_random.random() < 0.03), False, {}


class _Counted(Drifting):
    def noise(self):
        return 0.0


class Odd(Drifting):
    """Gives an info that has no plain form."""

    def step(self, action):
        seen, reward, over, cut, info = super().step(action)
        return seen, reward, over, cut, {**info, "thing": object()}


class Blows(BaseCallback):
    """Asks and changes the environments through the vector environment's own calls, and learns by what it hears."""

    def _on_step(self):
        if self.n_calls % 7 == 0:
            answers = self.training_env.env_method("gust", 0.1)
            self.model.ent_coef = float(0.01 * abs(answers[0]["wind"]))
        if self.n_calls % 5 == 0:
            self.training_env.set_attr("unused", self.training_env.get_attr("place"))
        return True


class Reaches(BaseCallback):
    """Takes the environments themselves."""

    def _on_step(self):
        self.model.ent_coef = 0.01 * abs(self.training_env.unwrapped.envs[0].unwrapped.place)
        return True


class Moody(Drifting):
    """Cannot be asked for its state for a while."""

    total = 0

    def step(self, action):
        self.total += 1
        return super().step(action)

    def get_state(self):
        if 5 < self.total < 240:
            raise RuntimeError("the simulator is busy")
        return {**super().get_state(), "total": self.total}


class Telling(Drifting):
    """Says in the info of a reset where it begins."""

    def reset(self, *, seed=None, options=None):
        seen, _ = super().reset(seed=seed)
        return seen, {"start": self.place}


class Attached(Drifting):
    """Gives with every reset what has no plain form, and what has."""

    def reset(self, *, seed=None, options=None):
        seen, _ = super().reset(seed=seed)
        return seen, {"simulator": object(), "start": self.place}


class Pausing(Drifting):
    """Is fast from its 32nd step to its 96th, but for one long step in between."""

    total = 0

    def step(self, action):
        self.total += 1
        if 32 < self.total <= 96:
            os.environ["WORLD_SECONDS"] = "1.5" if self.total == 80 else "0"
        else:
            os.environ["WORLD_SECONDS"] = "0.02"
        return super().step(action)


class Hears(BaseCallback):
    """Learns by where the episodes have begun."""

    def _on_step(self):
        self.model.ent_coef = 0.9 * self.model.ent_coef + 0.001 * abs(self.training_env.reset_infos[0]["start"])
        return True


class Reseeds(BaseCallback):
    """Seeds and resets the training's environment in the middle of a rollout."""

    def _on_step(self):
        if self.n_calls == 10:
            self.training_env.seed(7)
        if self.n_calls in (10, 20):
            self.training_env.reset()
        return True
