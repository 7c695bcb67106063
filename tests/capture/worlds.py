"""Environments that keep their state in plain sight, in C, in closures, in modules, or in the clock."""

import datetime
import itertools
import time
import typing

import gymnasium
import numpy as np
from gymnasium.utils import EzPickle

HIDDEN = np.random.default_rng()
LEVELS = (0.01 * k for k in itertools.count())
TOTAL = 0
TABLE = {"steps": 0}
CONSTANTS = {"drift": 0.25}


class World(gymnasium.Env):
    """Its state lies in attributes."""

    def __init__(self, size=3):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.place = np.zeros(size)
        self.age = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=self.place.shape)
        self.age = 0
        return self.seen(), {}

    def step(self, action):
        self.age += 1
        self.place = self.place + 0.1 * (int(action) - 1) + self.noise()
        return self.seen(), float(self.place.sum()), self.age >= 17, False, {}

    def noise(self):
        return self.np_random.normal()

    def seen(self):
        return self.place.astype(np.float32)


class Pickled(World, EzPickle):
    """The trap: pickling it gives a new one in its first state."""

    def __init__(self, size=3):
        EzPickle.__init__(self, size)
        super().__init__(size)


class Opaque(Pickled):
    """Part of its state lies inside an object of C."""

    def reset(self, *, seed=None, options=None):
        self.counter = itertools.count()
        return super().reset(seed=seed, options=options)

    def noise(self):
        return next(self.counter) * 0.5


class HiddenGlobal(World):
    def noise(self):
        return HIDDEN.normal()


class Closure(World):
    """The counter lies in a function's cell, over episodes."""

    def __init__(self, size=3):
        super().__init__(size)
        count = 0

        def counted():
            nonlocal count
            count += 1
            return 0.01 * count

        self.counted = counted

    def noise(self):
        return self.counted()


class Clock(World):
    def noise(self):
        return time.perf_counter() % 1.0


class Speaking(Opaque):
    """Opaque, but it can say where it is."""

    def reset(self, *, seed=None, options=None):
        self.drawn = 0
        return super().reset(seed=seed, options=options)

    def noise(self):
        self.drawn += 1
        return super().noise()

    def get_state(self):
        return {"place": self.place, "age": self.age, "drawn": self.drawn}

    def set_state(self, state):
        self.place, self.age, self.drawn = state["place"], state["age"], state["drawn"]
        self.counter = itertools.count(self.drawn)


class Forgetful(Speaking):
    """Its protocol leaves something out."""

    def set_state(self, state):
        super().set_state({**state, "age": 0})


class Restless(World):
    """Draws from every global generator whenever it is asked for its state, and in every step."""

    def get_state(self):
        import random

        np.random.random(3)
        random.random()
        return {"place": self.place, "age": self.age}

    def set_state(self, state):
        import random

        np.random.random(5)
        random.random()
        self.place, self.age = state["place"], state["age"]

    def noise(self):
        return np.random.normal()


class Engine:
    """What `Workshop` makes anew at every reset."""

    def __init__(self, rng):
        self.rng = rng
        self.place = 0.0
        self.parts = []


class Part:
    def __init__(self, value):
        self.value = value


class Workshop(gymnasium.Env):
    """Keeps a generator of its own over episodes and makes its objects in reset; with `parts`, ever more of them."""

    def __init__(self, parts=False, length=150):
        self.observation_space = gymnasium.spaces.Box(-1e6, 1e6, (1,), np.float64)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.parts = parts
        self.length = length
        self.rng = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None or self.rng is None:
            self.rng = np.random.default_rng(seed)
        self.engine = Engine(self.rng)
        self.count = 0
        return np.array([self.engine.place]), {}

    def step(self, action):
        self.count += 1
        self.engine.place += self.rng.normal() + action
        if self.parts:
            self.engine.parts.append(Part(self.engine.place))
            self.engine.place += 1e-3 * sum(part.value for part in self.engine.parts)
        return np.array([self.engine.place]), self.engine.place, False, self.count >= self.length, {}


class Reseeding(Workshop):
    """Opaque, and its generator survives resets in a place that neither attributes nor a replay can bring back."""

    _hidden = None

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        if seed is not None or Reseeding._hidden is None:
            Reseeding._hidden = np.random.default_rng(seed)
        self.rng = None
        self.engine.rng = iter(())
        self.rng = _Lent(Reseeding._hidden)
        return observation, info


class _Lent:
    __slots__ = ()

    def __new__(cls, rng):
        lent = super().__new__(cls)
        _Lent.rng = rng
        return lent

    def normal(self):
        return _Lent.rng.normal()


class Dealt(World):
    """Takes its drift from `deal` at each reset; episodes of 13 steps, three of which end in forty."""

    def __init__(self, length=13):
        super().__init__()
        self.length = length

    def reset(self, *, seed=None, options=None):
        seen = super().reset(seed=seed, options=options)
        self.drift = self.deal()
        return seen

    def deal(self):
        return 0.0

    def noise(self):
        return self.drift

    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, self.age >= self.length, truncated, info


class Sides(Dealt):
    """Alternates by an iterator that outlives its episodes."""

    def __init__(self, length=13):
        super().__init__(length)
        self.sides = itertools.cycle([-0.2, 0.2])

    def deal(self):
        return next(self.sides)


class Levels(Dealt):
    """Its levels come from a generator within a function's closure."""

    def __init__(self, length=30):
        super().__init__(length)
        levels = (0.01 * k for k in itertools.count())
        self.next_level = lambda: next(levels)

    def deal(self):
        return self.next_level()


class Deck(list):
    """A list that cannot be described, for it may be more than its items."""


class Turning(Dealt):
    """Alternates by something that neither attributes nor a replay bring back, and that is no iterator."""

    def __init__(self, length=13):
        super().__init__(length)
        self.deck = Deck([-0.2, 0.2])

    def deal(self):
        self.deck.reverse()
        return self.deck[0]


class Remade(Dealt):
    """Has an iterator, and makes a new one at each reset."""

    def deal(self):
        self.sides = itertools.cycle([-0.2, 0.2])
        return next(self.sides)


class Dated(World):
    """Holds a date, so that only replay captures it. Its difficulty may be set in the middle of an episode."""

    def __init__(self):
        super().__init__()
        self.difficulty = 0.0
        self.weights = self.view = np.zeros(2)
        self.opponent = None
        self.day = datetime.date(2020, 1, 1)

    def reset(self, *, seed=None, options=None):
        self.day = datetime.date(2020, 1, 1)
        return super().reset(seed=seed, options=options)

    def noise(self):
        self.day += datetime.timedelta(days=1)
        return self.difficulty * self.day.day + self.weights.sum()


class ClassCounter(World):
    """A curriculum over the steps of the class, beyond the horizon of a self-test."""

    steps = 0

    def noise(self):
        ClassCounter.steps += 1
        return 0.05 * min(ClassCounter.steps // 5000, 10)


class GlobalCounter(World):
    """The same in a module, by way of a function."""

    def noise(self):
        return 0.05 * min(counted_in_module() // 5000, 10)


def counted_in_module():
    global TOTAL
    TOTAL += 1
    return TOTAL


class GlobalTable(World):
    """The same inside of a global that is never assigned."""

    def noise(self):
        TABLE["steps"] += 1
        return 0.05 * min(TABLE["steps"] // 5000, 10)


class ClosureCounter(World):
    """The same in a function's variable."""

    def __init__(self):
        super().__init__()
        count = 0

        def counted():
            nonlocal count
            count += 1
            return 0.05 * min(count // 5000, 10)

        self.noise = counted


class SpokenCounter(ClassCounter):
    """Its protocol brings the class's counter back."""

    def get_state(self):
        return {"steps": ClassCounter.steps, "place": self.place, "age": self.age}

    def set_state(self, state):
        ClassCounter.steps, self.place, self.age = state["steps"], state["place"], state["age"]


class Lazy(World):
    """Loads a table of the class at its first reset, and has constants."""

    table = None
    sizes: typing.ClassVar = [1, 2, 3]
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self):
        super().__init__()
        del self.action_space

    def reset(self, *, seed=None, options=None):
        if Lazy.table is None:
            Lazy.table = np.linspace(0.0, 1.0, 17)
        return super().reset(seed=seed, options=options)

    def noise(self):
        return self.table[self.age - 1] * self.sizes[0] + CONSTANTS["drift"]


class Shared(Dealt):
    """Its sides lie on the class and its levels in the module."""

    sides = itertools.cycle([-0.2, 0.2])

    def deal(self):
        return next(self.sides) + next(LEVELS)
