"""Box2D has no state to read: its environments are replayed, where their world does not outlive the episode (A6)."""

import gymnasium
import native_worlds
import pytest
from native_worlds import played

from unbroken.capture.selftest import SelfTest
from unbroken.wrappers import FreshWorld


@pytest.mark.parametrize(
    ("target", "kwargs"),
    [
        ("LunarLander-v3", {}),
        ("LunarLander-v3", {"continuous": True, "enable_wind": True}),
        ("native_worlds:walker", {}),
        ("native_worlds:walker", {"hardcore": True}),
        pytest.param("CarRacing-v3", {"lap_complete_percent": 0.95}, marks=pytest.mark.full),
    ],
)
def test_box2d_is_proved_by_replay_in_two_processes(target, kwargs):
    """A6, issue 3 "Environments"."""
    verdict = SelfTest.start(target, kwargs, 100_000).result()
    assert (verdict.strategy, verdict.proved) == ("replay", True), verdict.reason


def test_a_walker_with_one_world_for_all_episodes_is_not_declared_exact():
    """A6: its world's memory depends on all episodes before."""
    verdict = SelfTest.start("BipedalWalker-v3", {}, 100_000).result()
    assert not verdict.proved


def test_an_episode_does_not_depend_on_those_before_it():
    """A6: what FreshWorld is for."""

    def third_episode(before):
        env = native_worlds.walker()
        env.reset(seed=7)
        for steps in before:
            env.reset()
            played(env, steps, seed=2)
        env.reset(seed=5)
        return played(env, 40)

    assert third_episode([]) == third_episode([0]) == third_episode([5]) == third_episode([40])


def test_only_an_environment_with_a_world_can_have_a_fresh_one():
    """Issue 2, "Errors"."""
    with pytest.raises(TypeError, match="CartPoleEnv has no attribute world"):
        FreshWorld(gymnasium.make("CartPole-v1"))
