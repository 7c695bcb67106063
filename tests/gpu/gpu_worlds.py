"""An environment of pictures, small enough to be quick: a square that the agent keeps in the middle."""

import gymnasium
import numpy as np


class Pictures(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (40, 40, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.count = int(self.np_random.integers(8, 32)), 0
        return self._seen(), {}

    def step(self, action):
        self.place = int(np.clip(self.place + 2 * (action - 1) + self.np_random.integers(-2, 3), 4, 36))
        self.count += 1
        return self._seen(), 1.0 - abs(self.place - 20) / 20, False, self.count >= 40, {}

    def _seen(self):
        picture = self.np_random.integers(0, 40, (40, 40, 1), dtype=np.uint8)
        picture[self.place - 4 : self.place + 4, 16:24] = 200
        return picture
