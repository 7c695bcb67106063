"""MuJoCo by its adapter: real environments, a real second process (A6)."""

import gymnasium
import native_worlds
import numpy as np
import pytest
from native_worlds import played

from unbroken.capture.codec import decode, encode
from unbroken.capture.environments import CaptureWrapper
from unbroken.capture.selftest import SelfTest
from unbroken.errors import CaptureError


def stored(description):
    encoded = encode(description)
    return decode(encoded.document, b"".join(bytes(piece) for piece in encoded.block()))


def captured_in_mid_episode(make, steps=25):
    env = CaptureWrapper(make())
    env.reset(seed=3)
    played(env, steps, seed=1)
    return env, stored(env.capture_state())


@pytest.mark.parametrize(
    "target",
    ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "native_worlds:Randomised"],
)
def test_mujoco_is_proved_in_two_processes(target):
    """A6, issue 3 "Environments": a user's subclass with a randomised model included."""
    verdict = SelfTest.start(target, {}, 10).result()
    assert (verdict.strategy, verdict.proved) == ("native", True), verdict.reason


def test_restoring_undoes_what_the_fresh_copy_drew_for_itself():
    """A6: a fresh copy's own masses, gravity and time step must not stay."""
    env, state = captured_in_mid_episode(native_worlds.Randomised)
    expected = played(env, 80)
    other = CaptureWrapper(native_worlds.Randomised())
    other.reset(seed=99)
    played(other, 7)
    assert other.unwrapped.model.opt.timestep != env.unwrapped.model.opt.timestep
    assert other.restore_state(state) == []
    assert played(other, 80) == expected


def test_only_what_changed_in_the_model_is_stored():
    """A13: the model of an environment that leaves it alone costs nothing."""
    _, untouched = captured_in_mid_episode(lambda: gymnasium.make("HalfCheetah-v5"))
    _, randomised = captured_in_mid_episode(native_worlds.Randomised)
    assert untouched["base"]["model"] == {}
    assert {"body_mass", "geom_friction", "opt.gravity", "opt.timestep"} <= randomised["base"]["model"].keys()


def test_the_state_vector_alone_would_not_do():
    """A6: what Humanoid observes of the last step is not in MuJoCo's state; the arrays are needed, and this test sees it."""
    env, state = captured_in_mid_episode(lambda: gymnasium.make("Humanoid-v5"), steps=12)
    other = CaptureWrapper(gymnasium.make("Humanoid-v5"))
    other.restore_state(state)
    mine, theirs = env.unwrapped.data, other.unwrapped.data
    assert np.array_equal(mine.cfrc_ext, theirs.cfrc_ext)
    assert np.array_equal(mine.cinert, theirs.cinert)
    state["base"]["arrays"] = {}
    other.restore_state(state)
    assert not np.array_equal(mine.cinert, theirs.cinert)


def test_another_model_in_every_episode_is_refused():
    """A6: a model with other sizes has no plain form here; replay is what is left for it."""
    env = CaptureWrapper(native_worlds.Recompiling())
    env.reset(seed=3)
    with pytest.raises(CaptureError, match="compiled another MuJoCo model"):
        env.capture_state()


def test_indices_are_not_taken_from_a_file():
    """Decision 0007: a checkpoint must not be able to set addresses that MuJoCo reads memory with."""
    env, state = captured_in_mid_episode(lambda: gymnasium.make("Hopper-v5"))
    state["base"]["model"] = {"body_geomadr": env.unwrapped.model.body_geomadr + 1_000_000}
    other = CaptureWrapper(gymnasium.make("Hopper-v5"))
    other.restore_state(state)
    assert np.array_equal(other.unwrapped.model.body_geomadr, env.unwrapped.model.body_geomadr)


def test_the_state_of_another_model_is_refused():
    """A8: sizes are compared before anything is read."""
    _, state = captured_in_mid_episode(lambda: gymnasium.make("Hopper-v5"))
    other = CaptureWrapper(gymnasium.make("HalfCheetah-v5"))
    with pytest.raises(CaptureError, match="another model"):
        other.restore_state(state)
