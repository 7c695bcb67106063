"""Environments captured in mid-episode, the strategy each one needs, and a self-test that catches what cannot be (A6)."""

import copy
import json
import pickle
import random

import gymnasium
import numpy as np
import pytest
import worlds

from unbroken.capture.codec import decode, encode
from unbroken.capture.environments import CaptureWrapper
from unbroken.capture.rng import capture_generators, restore_generators
from unbroken.capture.selftest import SelfTest, prove_instances
from unbroken.errors import CaptureError

PROVED = "exact by {} (self-test passed)"


def stored(description):
    encoded = encode(description)
    return decode(encoded.document, b"".join(bytes(piece) for piece in encoded.block()))


def played(env, steps, seed=5):
    """Observations, rewards and ends of so many steps; episodes that end are reset."""
    actions = np.random.default_rng(seed)
    rows = []
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(int(actions.integers(env.action_space.n)))
        rows.append((np.asarray(observation).tolist(), reward, terminated, truncated))
        if terminated or truncated:
            rows.append(np.asarray(env.reset()[0]).tolist())
    return rows


def in_mid_episode(make, strategy="auto", steps=9, **words):
    env = CaptureWrapper(make(), strategy, **words)
    env.reset(seed=3)
    played(env, steps, seed=1)
    return env


@pytest.mark.parametrize(
    ("make", "strategy"),
    [
        (worlds.World, "attributes"),
        (worlds.Pickled, "attributes"),
        (worlds.Opaque, "replay"),
        (worlds.Speaking, "protocol"),
        (lambda: gymnasium.make("CartPole-v1"), "attributes"),
        (lambda: gymnasium.make("Acrobot-v1"), "attributes"),
        (lambda: gymnasium.make("FrozenLake-v1"), "attributes"),
        (lambda: gymnasium.make("Blackjack-v1"), "attributes"),
        (
            lambda: gymnasium.wrappers.RecordEpisodeStatistics(
                gymnasium.wrappers.NormalizeObservation(gymnasium.make("CartPole-v1"))
            ),
            "attributes",
        ),
    ],
)
def test_an_environment_goes_on_in_mid_episode_over_a_reset(make, strategy):
    """A6: EzPickle's trap included: what counts is the state, not how the object pickles."""
    env = in_mid_episode(make)
    assert env.strategy == strategy
    state = stored(env.capture_state())
    assert env.coverage() == {"strategy": strategy, "not_captured": []}
    expected = played(env, 60)
    other = CaptureWrapper(make())
    assert other.restore_state(state) == []
    assert played(other, 60) == expected
    late = in_mid_episode(make, steps=31)
    assert late.restore_state(state) == []
    assert played(late, 60) == expected


def test_ezpickle_would_have_lost_the_state():
    """Issue 2, Exactness: the known trap is real; pickling gives a new environment."""
    env = worlds.Pickled()
    env.reset(seed=3)
    env.step(0)
    assert pickle.loads(pickle.dumps(env)).age == 0
    assert env.age == 1


def test_a_snapshot_does_not_change_as_the_environment_goes_on():
    """A6: by every strategy."""
    for make in (worlds.World, worlds.Opaque, worlds.Speaking):
        env = in_mid_episode(make)
        state = env.capture_state()
        before = encode(state)
        copied = [array.copy() for array in before.arrays]
        document = before.document
        played(env, 40)
        after = encode(state)
        assert after.document == document, make
        assert all(map(np.array_equal, copied, after.arrays)), make


def test_a_replay_beyond_its_limit_is_refused():
    """Issue 2, Exactness: a stated ceiling; the next episode can be captured again."""
    env = in_mid_episode(worlds.Opaque, replay_limit=5)
    with pytest.raises(
        CaptureError, match="longer than the 5 steps that a replay may cost; give it get_state/set_state"
    ):
        env.capture_state()
    env.reset()
    played(env, 3)
    state = stored(env.capture_state())
    expected = played(env, 10)
    other = CaptureWrapper(worlds.Opaque())
    other.restore_state(state)
    assert played(other, 10) == expected


def test_other_wrappers_are_refused():
    """A8: the layers are compared before anything is filled."""
    state = stored(in_mid_episode(worlds.World).capture_state())
    other = CaptureWrapper(gymnasium.wrappers.TimeLimit(worlds.World(), 5))
    other.reset(seed=0)
    with pytest.raises(CaptureError, match="wrappers are not those"):
        other.restore_state(state)


def test_generators_are_captured_first_and_restored_last():
    """A6, torchsnapshot's test: a component that draws random numbers while it is captured and restored."""
    from stable_baselines3 import PPO

    from unbroken.capture.callbacks import Callbacks
    from unbroken.capture.sb3 import capture_model, restore_model

    def made():
        return PPO("MlpPolicy", worlds_env(), n_steps=64, batch_size=64, seed=0, device="cpu")

    def worlds_env():
        from stable_baselines3.common.env_util import make_vec_env

        return make_vec_env(worlds.Restless, n_envs=1, seed=0, wrapper_class=CaptureWrapper)

    model = made().learn(64)
    before = capture_generators()
    snapshot = capture_model(model, "end", Callbacks())
    assert encode(snapshot.state["generators"]).document == encode(before).document
    other = made()
    problems = restore_model(other, stored(snapshot.state), snapshot.tensors, snapshot.variables, Callbacks())
    assert problems == []
    drawn = (np.random.random(), random.random())
    restore_generators(before)
    assert drawn == (np.random.random(), random.random())


def test_global_generators_come_back_exactly():
    """A6: python's with its second gauss, numpy's old one, torch's."""
    import torch

    random.gauss(0, 1)
    np.random.normal()
    torch.rand(3)
    state = stored(capture_generators())
    first = (random.gauss(0, 1), random.random(), np.random.normal(), np.random.random(), torch.rand(2).tolist())
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    restore_generators(state)
    assert (
        random.gauss(0, 1),
        random.random(),
        np.random.normal(),
        np.random.random(),
        torch.rand(2).tolist(),
    ) == first


@pytest.mark.parametrize(
    ("make", "strategy"),
    [
        (worlds.World, "attributes"),
        (worlds.Pickled, "attributes"),
        (worlds.Opaque, "replay"),
        (worlds.Speaking, "protocol"),
        (worlds.Restless, "protocol"),
    ],
)
def test_the_self_test_passes_what_is_exact(make, strategy):
    """Issue 2, Exactness: within one process."""
    before = copy.deepcopy(capture_generators())
    verdict = prove_instances(make(), make())
    assert (verdict.proved, verdict.strategy) == (True, strategy), verdict
    assert encode(capture_generators()).document == encode(before).document


@pytest.mark.parametrize("make", [worlds.HiddenGlobal, worlds.Closure, worlds.Clock, worlds.Forgetful])
def test_the_self_test_catches_hidden_state(make):
    """Issue 2, Exactness: a hidden module-global generator, a closure, the clock, a protocol that forgets."""
    verdict = prove_instances(make(), make())
    assert not verdict.proved
    assert verdict.reason
    assert verdict.describe().startswith("environment state: not proved (")


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("Opaque", "replay"),
        ("Forgetful", "attributes or replay"),
        ("HiddenGlobal", None),
        ("Closure", None),
        ("no_such_world", None),
    ],
)
def test_the_self_test_in_other_processes(name, strategy, monkeypatch):
    """Issue 2, Exactness: strategies are tried in order; a test that crashes proves nothing and raises nothing."""
    verdict = SelfTest.start(f"worlds:{name}", {}, 1000).result()
    if strategy is None:
        assert not verdict.proved
        assert verdict.strategy == "auto"
        assert verdict.reason
    else:
        assert verdict.proved, verdict
        assert verdict.strategy in strategy
    assert json.dumps(vars(verdict))


def test_a_self_test_that_takes_too_long_is_not_proved():
    """Issue 2, Exactness: it neither blocks nor raises."""
    verdict = SelfTest({"target": "worlds:World", "kwargs": {}, "replay_limit": 10}, timeout_seconds=0.0).result()
    assert (verdict.proved, verdict.reason) == (False, "the self-test took longer than 0 s")
