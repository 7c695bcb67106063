"""Atari by its adapter, with sticky actions, Stable-Baselines3's wrappers and a frame stack, in a real second process (A6)."""

import ale_py
import gymnasium
import native_worlds
import numpy as np
import pytest
from native_worlds import played

from unbroken.capture.comparison import compare_states
from unbroken.capture.environments import CaptureWrapper
from unbroken.capture.native.ale import RecordingInterface
from unbroken.capture.selftest import SelfTest

gymnasium.register_envs(ale_py)


@pytest.mark.parametrize(
    ("target", "kwargs"),
    [
        ("ale_py:ALE/Pong-v5", {}),
        ("ale_py:ALE/Breakout-v5", {"repeat_action_probability": 0.6, "obs_type": "ram"}),
        ("native_worlds:atari", {}),
        pytest.param("native_worlds:atari", {"game": "BreakoutNoFrameskip-v4", "sticky": 0.0}, marks=pytest.mark.full),
    ],
)
def test_atari_is_proved_in_two_processes(target, kwargs):
    """A6, issue 3 "Environments"."""
    verdict = SelfTest.start(target, kwargs, 10).result()
    assert (verdict.strategy, verdict.proved) == ("native", True), verdict.reason


def captured_at(step, seed=5):
    env = CaptureWrapper(gymnasium.make("ALE/Pong-v5"))
    env.reset(seed=seed)
    played(env, step, seed=1)
    return env, env.capture_state()


@pytest.mark.parametrize("step", [1, 2, 3, 8, 9, 16, 40, 41])
def test_the_sticking_action_comes_back(step):
    """A6: the emulator repeats an action that its own state does not hold; few and many frames after the start."""
    env, state = captured_at(step)
    expected = played(env, 12)
    other = CaptureWrapper(gymnasium.make("ALE/Pong-v5"))
    other.restore_state(state)
    assert played(other, 12) == expected


def test_the_emulators_state_alone_would_not_do():
    """A6: the reason for recording; without the calls at least one of twenty captures goes on differently."""

    def goes_on_differently(step):
        env, state = captured_at(step, seed=step)
        recorded = state["base"]["emulator"]
        recorded["calls"], recorded["earlier"] = [], recorded["state"]
        other = CaptureWrapper(gymnasium.make("ALE/Pong-v5"))
        other.restore_state(state)
        return played(other, 3) != played(env, 3)

    assert any(goes_on_differently(step) for step in range(1, 21))


def test_as_many_calls_are_kept_as_count():
    """A6, A13: enough for the chance of stickiness, and not more than twice that."""
    env = gymnasium.make("ALE/Pong-v5", repeat_action_probability=0.5).unwrapped
    env.ale = RecordingInterface(env.ale)
    env.reset(seed=3)
    for _ in range(100):
        env.step(2)
    kept = len(env.ale.recorded()["calls"])
    assert 0.5**kept < 1e-17
    assert kept <= 2 * 58


def test_a_second_capture_goes_on_from_a_restored_one():
    """A6: killed twice within the frames that are kept."""
    env, state = captured_at(30)
    second = CaptureWrapper(gymnasium.make("ALE/Pong-v5"))
    second.restore_state(state)
    assert played(second, 2) == played(env, 2)
    third = CaptureWrapper(gymnasium.make("ALE/Pong-v5"))
    third.restore_state(second.capture_state())
    assert played(third, 12, seed=7) == played(env, 12, seed=7)


@pytest.mark.parametrize("step", [2, 17, 45])
def test_later_captures_have_the_bits_of_a_game_that_was_never_stopped(step):
    """A6: found by the kill campaign; what was recorded depended on when the game had been resumed, though it went on alike."""
    env, state = captured_at(step)
    other = CaptureWrapper(gymnasium.make("ALE/Pong-v5"))
    other.restore_state(state)
    for _ in range(4):
        played(env, 9, seed=2)
        played(other, 9, seed=2)
        states = [{"base": one.capture_state()["base"]} for one in (env, other)]
        compared = compare_states(*states)
        assert compared.identical, compared.text()


def test_a_capture_without_a_middle_is_still_restored():
    """A6: checkpoints made before it was recorded."""
    env, state = captured_at(30)
    expected = played(env, 12)
    for name in ("middle", "calls_to_middle"):
        del state["base"]["emulator"][name]
    other = CaptureWrapper(gymnasium.make("ALE/Pong-v5"))
    other.restore_state(state)
    assert played(other, 12) == expected


def test_wrappers_between_see_the_same_emulator():
    """A6: what else a user asks of the emulator passes through."""
    env = CaptureWrapper(native_worlds.atari())
    env.reset(seed=1)
    ale = env.unwrapped.ale
    assert ale.getScreenRGB().shape == (210, 160, 3)
    assert isinstance(ale.lives(), int)
    assert np.asarray(ale.getRAM()).size == 128
