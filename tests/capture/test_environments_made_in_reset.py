"""Environments that make their objects in reset, and whose generators outlive episodes (A6)."""

from pathlib import Path

import numpy as np
import pytest
import worlds

from unbroken.capture.environments import CaptureWrapper
from unbroken.capture.selftest import SelfTest
from unbroken.errors import CaptureError


@pytest.mark.parametrize(("parts", "strategy"), [(False, "attributes"), (True, "replay")])
def test_the_second_episode_is_restored_into_an_environment_that_was_never_reset(parts, strategy):
    """A6: objects that only a reset makes are there to be filled, and what a list of them holds is replayed."""
    env = CaptureWrapper(worlds.Workshop(parts, length=20), strategy)
    env.reset(seed=3)
    for _ in range(20):
        env.step(1)
    env.reset()
    for _ in range(5):
        env.step(0)
    state = env.capture_state()
    after = [float(env.step(1)[1]) for _ in range(15)]
    fresh = CaptureWrapper(worlds.Workshop(parts, length=20), strategy)
    assert fresh.restore_state(state) == []
    assert [float(fresh.step(1)[1]) for _ in range(15)] == after
    assert np.array_equal(fresh.reset()[0], env.reset()[0])
    assert fresh.step(0)[1] == env.step(0)[1]


@pytest.mark.parametrize(("kwargs", "strategy"), [({}, "attributes"), ({"parts": True}, "replay")])
def test_long_episodes_are_proved_in_one_that_an_unseeded_reset_began(kwargs, strategy, monkeypatch):
    """A6: the first episode of a training is seeded, all others are not."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    verdict = SelfTest.start("worlds:Workshop", kwargs, 1000).result()
    assert (verdict.strategy, verdict.proved) == (strategy, True), verdict


def test_objects_that_gather_in_a_container_are_named_where_nothing_was_proved():
    """A6: without a self-test the attributes look complete at the first reset; what they cannot bring back is said."""
    env = CaptureWrapper(worlds.Workshop(parts=True))
    env.reset(seed=0)
    env.step(1)
    env.capture_state()
    assert "an object inside a container" in env.coverage()["not_captured"][0]


def test_a_generator_that_hides_outside_the_instance_is_not_proved(monkeypatch):
    """A6: a seeded first episode would hide it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    verdict = SelfTest.start("worlds:Reseeding", {}, 1000).result()
    assert not verdict.proved


def test_before_the_first_reset_there_is_nothing_to_capture():
    """A5: a save may come before the evaluation environment has been used."""
    state = CaptureWrapper(worlds.Speaking()).capture_state()
    assert CaptureWrapper(worlds.Speaking()).restore_state(state) == []


def test_an_environment_that_cannot_answer_does_not_end_its_process():
    """A10: an exception in a worker would end the training."""

    class Busy(worlds.Workshop):
        def get_state(self):
            raise ValueError("simulator busy")

        def set_state(self, state):
            raise ValueError("simulator busy")

    env = CaptureWrapper(Busy())
    env.reset(seed=0)
    assert env.try_capture() == {"error": "ValueError: simulator busy"}
    with pytest.raises(CaptureError, match="cannot take"):
        CaptureWrapper(worlds.Workshop(True), "attributes").restore_state(_with_parts())
    assert "cannot take" in CaptureWrapper(worlds.Workshop(True), "attributes").try_restore(_with_parts())["error"]


def _with_parts():
    env = CaptureWrapper(worlds.Workshop(True), "attributes")
    env.reset(seed=0)
    env.step(1)
    return env.capture_state()
