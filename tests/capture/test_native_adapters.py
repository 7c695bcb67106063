"""Adapters of users' packages, under the entry point group `unbroken.environments` (issue 3, A6)."""

import pytest

from unbroken.capture.native import GROUP, from_module
from unbroken.capture.selftest import SelfTest

PACKAGE = '''
import itertools

import gymnasium
import numpy as np
from gymnasium import spaces


class Engine:
    """Stands for a simulator in C: nothing can look into it but by its own calls."""

    __slots__ = ("_stream",)

    def __init__(self):
        self._stream = itertools.count()

    def advance(self):
        return next(self._stream)

    def save(self):
        return next(self._stream)

    def load(self, count):
        self._stream = itertools.count(count)


class World(gymnasium.Env):
    def __init__(self):
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.engine = Engine()
        self.age = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self.observed(), {}

    def observed(self):
        return np.array([self.engine.advance() + self.np_random.random()], np.float32)

    def step(self, action):
        self.age += 1
        return self.observed(), float(action), False, self.age >= 12, {}


class Adapter:
    name = "theirs"
    one_per_process = False

    @classmethod
    def handles(cls, env):
        return type(env).__name__ == "World"

    def __init__(self, env):
        self.env = env

    def is_handle(self, value):
        return isinstance(value, Engine)

    def capture(self, describer):
        count = self.env.engine.save()
        self.env.engine.load(count)
        return {"count": count, "attributes": describer.attributes(self.env)}

    def restore(self, filler, state):
        filler.fill_attributes(self.env, state["attributes"])
        self.env.engine.load(state["count"])


class Forgetful(Adapter):
    def restore(self, filler, state):
        filler.fill_attributes(self.env, state["attributes"])
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a package on the import path as if it were installed, with the entry points that it is given."""

    def install(**places):
        (tmp_path / "their_simulator.py").write_text(PACKAGE)
        information = tmp_path / "their_simulator-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: their-simulator\nVersion: 1.0\n")
        lines = "".join(f"{name} = {place}\n" for name, place in places.items())
        (information / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def verdict():
    return SelfTest.start("their_simulator:World", {}, 1000).result()


def test_without_an_adapter_it_is_not_proved(installed):
    """A6: the test of the tests below."""
    installed()
    assert not verdict().proved


def test_a_package_brings_its_own_adapter(installed):
    """Issue 3: registered, found, used, proved in two processes."""
    installed(theirs="their_simulator:Adapter")
    found = verdict()
    assert (found.strategy, found.proved) == ("native", True), found.reason


def test_an_adapter_is_judged_like_everything_else(installed):
    """A6: one that forgets is not believed."""
    installed(theirs="their_simulator:Forgetful")
    found = verdict()
    assert not found.proved
    assert "by native, the restored copy differs" in found.reason


def test_an_adapter_that_cannot_be_loaded_does_no_harm(installed):
    """A9: another package's mistake stops no training."""
    installed(absent="no_such_module:Adapter", theirs="their_simulator:Adapter")
    assert verdict().proved


def test_modules_and_instances_are_told_by_their_package():
    """A6: what counts as the simulator's."""
    import json

    assert from_module(json, "json")
    assert from_module(json.JSONDecoder(), "json")
    assert not from_module(json, "js")
    assert not from_module(3.0, "json")
