"""`unbroken envs check` in real processes: the verdict, what it costs, and for a "no" why and what to do (issue 3, A6)."""

import json

import pytest

WORLDS = '''
import itertools
import time

import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv


class Told(CartPoleEnv):
    """Rewards by the day of the week: two runs within one second agree."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + int(time.time() / 86_400) % 7, terminated, truncated, info


class Unseeded(CartPoleEnv):
    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng()

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + self.generator.random(), terminated, truncated, info


class Opaque(CartPoleEnv):
    def __init__(self):
        super().__init__()
        self.stream = itertools.cycle([1, 2, 3])
        self.age = 0

    def step(self, action):
        self.age += 1
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + next(self.stream), terminated, truncated, info


class Mended(Opaque):
    SKETCH


rng = np.random.default_rng(0)
counts = {"steps": 0}


class Outside(CartPoleEnv):
    def step(self, action):
        counts["steps"] += 1
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + rng.random() + counts["steps"], terminated, truncated, info


class Inside(CartPoleEnv):
    """As the advice has it."""

    def reset(self, *, seed=None, options=None):
        self.counts = {"steps": 0}
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.counts["steps"] += 1
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + self.np_random.random() + self.counts["steps"], terminated, truncated, info
'''


@pytest.fixture
def worlds(tmp_path):
    (tmp_path / "checked_worlds.py").write_text(WORLDS.replace("SKETCH", "pass"))
    return tmp_path


def test_a_yes_says_what_it_costs(unbroken):
    """A6, A13: strategy, bytes, times; the same in JSON."""
    ended = unbroken("envs", "check", "CartPole-v1")
    assert ended.code == 0, ended.err
    for word in ("strategy:     attributes", "state:", "snapshot:", "restore:", "verdict:      yes"):
        assert word in ended.out
    report = json.loads(unbroken("envs", "check", "CartPole-v1", "--json").out)
    assert report["exact"]
    assert report["state_bytes"] > 500
    assert 0 < report["snapshot_seconds"] < 1
    assert 0 < report["restore_seconds"] < 1
    assert report["advice"] == []


def test_what_depends_on_the_clock_is_named(unbroken, worlds):
    """Issue 3: named, not declared exact, also where the two processes see the same second."""
    ended = unbroken("envs", "check", "checked_worlds:Told")
    assert ended.code == 1
    assert "no: not deterministic" in ended.out
    assert "time.time in Told.step" in ended.out
    assert "get_state" not in ended.out


def test_a_generator_that_nobody_seeds_is_named(unbroken, worlds):
    """Issue 3: it can be captured, and yet no training can be repeated."""
    ended = unbroken("envs", "check", "checked_worlds:Unseeded")
    assert ended.code == 1
    assert "not deterministic" in ended.out
    assert "numpy.random.default_rng in Unseeded.__init__" in ended.out


def test_the_lines_that_it_gives_make_it_a_yes(unbroken, worlds):
    """Issue 3: with the two lines filled in that only the user knows, the sketch works as printed."""
    ended = unbroken("envs", "check", "checked_worlds:Opaque", "--json")
    assert ended.code == 1
    report = json.loads(ended.out)
    assert "itertools.cycle is not captured" in report["reason"]
    begin = report["advice"].index("def get_state(self):")
    sketch = report["advice"][begin:]
    assert len(sketch) <= 12
    known = {
        "    state['stream'] = ...": "    state['stream'] = self.age % 3",
        "    self.stream = ...": "    self.stream = itertools.cycle([[1, 2, 3], [2, 3, 1], [3, 1, 2]][state['stream']])",
    }
    filled = [next((known[k] for k in known if line.startswith(k)), line) for line in sketch]
    assert filled != sketch
    code = WORLDS.replace("SKETCH", "\n    ".join(filled)).replace("import itertools", "import copy\nimport itertools")
    (worlds / "checked_worlds.py").write_text(code)
    mended = unbroken("envs", "check", "checked_worlds:Mended")
    assert mended.code == 0, mended.out
    assert "strategy:     protocol" in mended.out


def test_what_lies_outside_of_an_environment_is_to_be_brought_inside(unbroken, worlds):
    """Issue 3: for globals, get_state/set_state are no way out; what is said is one."""
    ended = unbroken("envs", "check", "checked_worlds:Outside")
    assert ended.code == 1, ended.err
    assert "self.np_random in the place of rng" in ended.out
    assert "self.counts = ...  # in __init__ or reset, in the place of: global checked_worlds.counts" in ended.out
    assert "get_state" not in ended.out
    assert unbroken("envs", "check", "checked_worlds:Inside").code == 0


def test_a_package_that_an_environment_needs_is_named(unbroken_here):
    """A13: 78 with the package, also where Gymnasium itself does not say so."""
    ended = unbroken_here("train", "phys2d/CartPole-v1")
    assert ended.code == 78
    assert "needs the package 'jax': pip install it" in ended.err
    assert "Traceback" not in ended.err


def test_a_walkers_way_out_is_its_own(unbroken):
    """Issue 3: not get_state, which Box2D cannot give; with the wrapper it is a yes."""
    ended = unbroken("envs", "check", "BipedalWalker-v3")
    assert ended.code == 1
    way_out = "environment.wrappers=[unbroken.wrappers:FreshWorld]"
    assert way_out in ended.out
    with_it = unbroken("envs", "check", "BipedalWalker-v3", "--set", way_out)
    assert with_it.code == 0, with_it.out
    assert "it grows with the episode" in with_it.out


def test_what_a_simulator_prints_is_not_in_the_answer(unbroken):
    """Issue 3: JSON for programs, with libsumo talking, in a process that has room for one simulation."""
    nets = "nets/single-intersection/single-intersection"
    keys = {
        "net_file": f"{nets}.net.xml",
        "route_file": f"{nets}.rou.xml",
        "single_agent": "true",
        "num_seconds": "200",
    }
    words = [word for key, value in keys.items() for word in ("--set", f"environment.kwargs.{key}={value}")]
    ended = unbroken("envs", "check", "sumo_rl:sumo-rl-v0", *words, "--json", variables={"LIBSUMO_AS_TRACI": "1"})
    report = json.loads(ended.out)
    assert (ended.code, report["strategy"], report["exact"]) == (0, "native", True), report["reason"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["CartPol-v1"], "did you mean 'CartPole-v1'?"),
        (["CartPole-v1", "--set", "environment.kwarg={}"], "did you mean 'environment.kwargs'?"),
        (["CartPole-v1", "--set", "environment.wrappers=[NoModule]"], "'NoModule' is not module:Class"),
        (["CartPole-v1", "--set", "environment.wrappers=[unbroken.wrappers:FrehWorld]"], "did you mean 'FreshWorld'?"),
    ],
)
def test_mistakes_are_one_line(unbroken_here, arguments, expected):
    """Issue 2, "Errors"."""
    ended = unbroken_here("envs", "check", *arguments)
    assert ended.code == 2
    assert expected in ended.err
    assert len(ended.error_lines) == 1
