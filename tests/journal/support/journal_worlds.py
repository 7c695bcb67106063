"""Small slow environments, each with a way of its own to keep or hide state."""

import time

import gymnasium
import numpy as np
from gymnasium import spaces


class Drifting(gymnasium.Env):
    """A noisy walk of episodes of random length; every step takes `seconds`. State can be had: `get_state`, `set_state`."""

    def __init__(self, seconds=0.02):
        self.observation_space = spaces.Box(-10.0, 10.0, (3,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.seconds = seconds
        self.place, self.steps, self.length = 0.0, 0, 10

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps, self.length = float(self.np_random.normal()), 0, int(self.np_random.integers(5, 25))
        return self.seen(), {}

    def seen(self):
        return np.array([np.clip(self.place, -9, 9), self.steps / 25, self.length / 25], np.float32)

    def noise(self):
        return float(self.np_random.normal())

    def step(self, action):
        time.sleep(self.seconds)
        self.steps += 1
        self.place += (int(action) - 1) * 0.3 + 0.1 * self.noise()
        return self.seen(), -abs(self.place), self.steps >= self.length, False, {"place": self.place}

    def get_state(self):
        return {"place": self.place, "steps": self.steps, "length": self.length}

    def set_state(self, state):
        self.place, self.steps, self.length = state["place"], state["steps"], state["length"]


class Slow(Drifting):
    """The same with a second a step."""

    def __init__(self, seconds=1.0):
        super().__init__(seconds)


class Masked(Drifting):
    """Forbids an action that depends on the state."""

    def action_masks(self):
        return np.array([self.place > -1.0, True, self.place < 1.0])


class Drawing(Drifting):
    """Draws its noise from numpy's and Python's global generators."""

    def noise(self):
        import random

        return float(np.random.normal()) + random.random()


class Closed(Drifting):
    """Its place is inside a generator: only a replay of the actions leads there."""

    get_state = None

    def reset(self, *, seed=None, options=None):
        seen, info = super().reset(seed=seed)
        self._walk = self._walking(self.place)
        next(self._walk)
        return seen, info

    def _walking(self, place):
        while True:
            change = yield place
            place += change

    def step(self, action):
        before = self.place
        self.place = self._walk.send((int(action) - 1) * 0.3)
        del before
        return super().step(1)


class Odd(Drifting):
    """Gives an info that has no plain form."""

    def step(self, action):
        seen, reward, over, cut, info = super().step(action)
        return seen, reward, over, cut, {**info, "lock": object()}
