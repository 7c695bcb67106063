"""Small, fast environments for the exactness matrix; they and the tracing wrapper know nothing of unbroken.

Every world draws random numbers in reset and in every step, and its episodes have varying lengths and end both ways.
`make` is the target of every cell. Two environment variables reach the processes that step the worlds:
MATRIX_TRACE is the folder that step records go to, MATRIX_DEATH (JSON) when to kill the training process.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import gymnasium
import matrix_families
import numpy as np
from gymnasium import spaces
from matrix_state import flat


class World(gymnasium.Env):
    """A noisy point that must stay near zero. Ends when it leaves the field, or after a number of steps drawn at reset."""

    n_actions = 3
    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def __init__(self):
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = spaces.Discrete(self.n_actions)
        self.place = np.zeros(2)
        self.speed = np.zeros(2)
        self.age = 0
        self.horizon = 0
        self.episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.begin(seed)
        self.place = self.noise(0.3)
        self.speed = self.noise(0.05)
        self.horizon = int(6 + 14 * self.uniform())
        self.age = 0
        self.episodes += 1
        return self.observation(), {}

    def step(self, action):
        self.age += 1
        self.speed = 0.9 * self.speed + 0.25 * self.push(action) + self.noise(0.1)
        self.place = self.place + self.speed
        distance = float(np.abs(self.place).sum())
        terminated = distance > 2.5
        truncated = not terminated and self.age >= self.horizon
        return self.observation(), 1.0 - distance + 0.1 * self.uniform(), terminated, truncated, {}

    def begin(self, seed):
        """Called at reset, before anything is drawn."""

    def noise(self, scale):
        return self.np_random.normal(0.0, scale, 2)

    def uniform(self):
        return float(self.np_random.random())

    def push(self, action):
        return (float(action) - 1.0) * np.array([1.0, -0.5])

    def observation(self):
        return np.concatenate([self.place, self.speed]).astype(np.float32)

    def action_masks(self):
        """The first action is forbidden to the left of zero, the last to the right of it."""
        return np.array([self.place[0] > 0, True, self.place[0] <= 0])


class Continuous(World):
    def __init__(self):
        super().__init__()
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def push(self, action):
        return np.asarray(action, dtype=np.float64)


def _draws(generator):
    """A stream whose position no attribute shows."""
    drift = 0.0
    while True:
        drift = 0.5 * drift + generator.normal()
        yield drift


class Opaque(World):
    """Its noise comes from a Python generator, which has no plain form: it can only be captured by replay."""

    def begin(self, seed):
        self.stream = _draws(self.np_random)

    def noise(self, scale):
        return scale * np.array([next(self.stream), next(self.stream)])


class OpaqueContinuous(Opaque, Continuous):
    pass


class Speaking(World):
    """As opaque as Opaque, but it can say and take back its state."""

    def begin(self, seed):
        self.drift = 0.0
        self.stream = self._draws()

    def _draws(self):
        while True:
            self.drift = 0.5 * self.drift + self.np_random.normal()
            yield self.drift

    def noise(self, scale):
        return scale * np.array([next(self.stream), next(self.stream)])

    def get_state(self):
        names = ("place", "speed", "age", "horizon", "episodes", "drift")
        return {**{name: getattr(self, name) for name in names}, "random": self.np_random.bit_generator.state}

    def set_state(self, state):
        for name, value in state.items():
            if name != "random":
                setattr(self, name, value)
        # touching np_random makes one where there is none
        self.np_random.bit_generator.state = state["random"]
        self.stream = self._draws()


class SpeakingContinuous(Speaking, Continuous):
    pass


class Global(World):
    """Draws from the global generators of its process, as careless environments do."""

    uses_global_generators = True

    def begin(self, seed):
        if seed is not None:
            np.random.seed(seed)
            random.seed(seed)

    def noise(self, scale):
        return np.random.normal(0.0, scale, 2)

    def uniform(self):
        return random.random()


class GlobalContinuous(Global, Continuous):
    pass


class Dictionary(World):
    """Observations in two parts."""

    def __init__(self):
        super().__init__()
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = spaces.Dict({"place": box, "speed": spaces.Box(-np.inf, np.inf, (2,), np.float32)})

    def observation(self):
        return {"place": self.place.astype(np.float32), "speed": self.speed.astype(np.float32)}


class DictionaryContinuous(Dictionary, Continuous):
    def __init__(self):
        Dictionary.__init__(self)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Goal(World):
    """A point to be brought to a goal drawn at reset; the reward can be told for any other goal."""

    def __init__(self):
        super().__init__()
        names = ("observation", "achieved_goal", "desired_goal")
        self.observation_space = spaces.Dict({n: spaces.Box(-np.inf, np.inf, (2,), np.float32) for n in names})
        self.goal = np.zeros(2)

    def begin(self, seed):
        self.goal = self.np_random.normal(0.0, 0.5, 2)

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        reward = float(self.compute_reward(observation["achieved_goal"], observation["desired_goal"], info))
        return observation, reward, terminated, truncated, info

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -(np.abs(achieved_goal - desired_goal).sum(-1) > 0.5).astype(np.float32)

    def observation(self):
        place, speed, goal = (part.astype(np.float32) for part in (self.place, self.speed, self.goal))
        return {"observation": speed, "achieved_goal": place, "desired_goal": goal}


class GoalContinuous(Goal, Continuous):
    def __init__(self):
        Goal.__init__(self)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Picture(World):
    """Sees its place as a bright dot among noise, in an image of the least size that NatureCNN takes."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def observation(self):
        image = self.np_random.integers(0, 60, (1, 36, 36), dtype=np.uint8)
        row, column = np.clip(18 + 6 * self.place, 0, 35).astype(int)
        image[0, row, column] = 255
        return image


class PictureContinuous(Picture, Continuous):
    def __init__(self):
        Picture.__init__(self)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)


WORLDS = {
    "plain": (World, Continuous),
    "opaque": (Opaque, OpaqueContinuous),
    "speaking": (Speaking, SpeakingContinuous),
    "global": (Global, GlobalContinuous),
    "dictionary": (Dictionary, DictionaryContinuous),
    "goal": (Goal, GoalContinuous),
    "picture": (Picture, PictureContinuous),
}


class Tracing(gymnasium.Wrapper):
    """Appends every reset and step to a file, counts steps, and kills the training process when it is told to.

    The copy of the environment is known by the seed that it is given at its first reset.
    """

    def __init__(self, env, family=None):
        super().__init__(env)
        self.family = family
        self.copy = -1
        self.count = 0
        self.in_episode = 0

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.copy = seed
        result = self.env.reset(seed=seed, options=options)
        self.in_episode = 0
        self._write([_hex(result[0])])
        return result

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.count += 1
        self.in_episode += 1
        self._write([_hex(observation), float(reward).hex(), bool(terminated), bool(truncated)])
        if not (terminated or truncated):
            self._die_if_due()
        return observation, reward, terminated, truncated, info

    def _write(self, record):
        folder = os.environ.get("MATRIX_TRACE")
        if folder:
            with open(f"{folder}/{self.copy}.jsonl", "a") as file:
                file.write(json.dumps(record) + "\n")

    def _die_if_due(self):
        """Kill the training process, once the checkpoint that this kill is to come after has been committed."""
        told = os.environ.get("MATRIX_DEATH")
        if not told:
            return
        death = json.loads(told)
        if self.copy != death["copy"] or self.count < death["count"] or self.in_episode < 2:
            return
        deadline = time.monotonic() + 60
        while _newest_checkpoint(death["checkpoints"]) < death["after"] and time.monotonic() < deadline:
            time.sleep(0.01)
        Path(death["place"]).write_text(json.dumps({"count": self.count, "in_episode": self.in_episode}))
        parent = multiprocessing.parent_process()
        os.kill(os.getpid() if parent is None else parent.pid, signal.SIGKILL)
        os._exit(1)

    def report(self):
        """Every bit of this copy's state, below the Monitor."""
        found = {}
        layer = self
        while layer is not None:
            if self.family is not None and type(layer).__name__ != "ActionRecorder":
                found.update(matrix_families.layer_state(layer))
            elif type(layer).__name__ != "ActionRecorder":
                found.update(flat(vars(layer), type(layer).__name__, skip={"env", "spec", "_cached_spec", "stream"}))
            layer = layer.env if isinstance(layer, gymnasium.Wrapper) else None
        if getattr(self.unwrapped, "uses_global_generators", False):
            found.update(flat({"python": random.getstate(), "numpy": np.random.get_state()}, "process"))
        return found


def make(world="plain", continuous=False):
    """One environment of the matrix: one of these worlds, or of a family."""
    if world in matrix_families.FAMILIES:
        return Tracing(matrix_families.make(world, continuous), world)
    return Tracing(WORLDS[world][int(continuous)]())


def _hex(observation):
    if isinstance(observation, dict):
        return {key: _hex(value) for key, value in observation.items()}
    return np.ascontiguousarray(observation).tobytes().hex()


def _newest_checkpoint(folder):
    return max((int(path.name.split("_")[-2]) for path in Path(folder).glob("*_steps.zip")), default=-1)
