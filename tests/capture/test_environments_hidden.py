"""State of an environment where no capture reaches is named and never proved; what callbacks change comes back (A6)."""

import sys
from pathlib import Path

import numpy as np
import pytest

from unbroken.capture.codec import decode, encode
from unbroken.capture.environments import CaptureWrapper
from unbroken.capture.selftest import SelfTest, prove_instances

sys.path.insert(0, str(Path(__file__).parent))
import worlds


def stored(description):
    encoded = encode(description)
    return decode(encoded.document, b"".join(bytes(piece) for piece in encoded.block()))


def stepped(env, steps):
    return [env.step(1)[0].tolist() for _ in range(steps)]


@pytest.fixture
def in_other_processes(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return lambda name: SelfTest.start(f"worlds:{name}", {}, 1000).result()


@pytest.mark.parametrize(
    ("make", "named"),
    [(worlds.Sides, "sides: itertools.cycle"), (worlds.Levels, "next_level.levels: builtins.generator")],
)
def test_an_iterator_that_outlives_a_reset_is_named_and_not_proved(make, named, in_other_processes):
    """A6: a replay in a fresh environment draws its first items again, and may agree by chance."""
    env = CaptureWrapper(make())
    env.reset(seed=0)
    assert env.coverage() == {"strategy": "replay", "not_captured": [named]}
    fresh = CaptureWrapper(make())
    fresh.restore_state(stored(env.capture_state()))
    assert fresh.coverage()["not_captured"] == [named]
    for verdict in (prove_instances(make(), make()), in_other_processes(make.__name__)):
        assert not verdict.proved
        assert f"replay: {named} is not captured" in verdict.reason


def test_an_alternation_over_resets_does_not_pass_by_chance(in_other_processes):
    """A6: every second number of resets fits; the self-test tries two that follow each other."""
    for verdict in (prove_instances(worlds.Turning(), worlds.Turning()), in_other_processes("Turning")):
        assert not verdict.proved
        assert "by replay, the restored copy differs" in verdict.reason


def test_an_iterator_that_each_reset_makes_anew_is_replayed(in_other_processes):
    """A6: nothing is named that a replay brings back."""
    verdict = in_other_processes("Remade")
    assert (verdict.strategy, verdict.proved) == ("replay", True), verdict


def test_what_was_set_from_outside_in_mid_episode_comes_back_after_a_replay():
    """A6: a callback's `env_method` between steps is in no history of actions."""
    env = CaptureWrapper(worlds.Dated())
    env.reset(seed=3)
    stepped(env, 4)
    env.unwrapped.difficulty = 0.5
    env.unwrapped.weights[:] = 1.0
    stepped(env, 3)
    state = stored(env.capture_state())
    expected = stepped(env, 5)
    fresh = CaptureWrapper(worlds.Dated())
    fresh.reset(seed=8)
    weights = fresh.unwrapped.weights
    assert fresh.restore_state(state) == []
    assert fresh.strategy == "replay"
    assert fresh.unwrapped.weights is fresh.unwrapped.view is weights
    assert stepped(fresh, 5) == expected


def test_a_replay_touches_only_what_differs():
    """A6: an attribute may be a view into a simulator's memory, and a copy in its place would no longer follow it."""
    env = CaptureWrapper(worlds.Dated())
    env.reset(seed=3)
    state = stored(env.capture_state())
    fresh = CaptureWrapper(worlds.Dated())
    fresh.reset(seed=8)
    memory = np.zeros(2)
    fresh.unwrapped.view = memory[:]
    fresh.unwrapped.view.flags.writeable = False
    seen = fresh.unwrapped.view
    history = state["base"]
    del history["lasting"]["view"], history["lasting"]["weights"]
    assert fresh.restore_state(state) == []
    assert fresh.unwrapped.view is seen


def test_what_only_code_can_put_there_is_reported():
    """A6: an opponent that a callback has put in cannot be made by a replay."""
    env = CaptureWrapper(worlds.Dated())
    env.reset(seed=3)
    env.unwrapped.opponent = len
    fresh = CaptureWrapper(worlds.Dated())
    assert fresh.restore_state(stored(env.capture_state())) == [
        "replay arrived elsewhere: opponent: was builtins:len, which only code can put there"
    ]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (worlds.ClassCounter, "class attribute ClassCounter.steps"),
        (worlds.GlobalCounter, "global worlds.TOTAL"),
        (worlds.GlobalTable, "global worlds.TABLE"),
        (worlds.ClosureCounter, "variable noise.count"),
        (worlds.HiddenGlobal, "global worlds.HIDDEN"),
    ],
)
def test_what_changes_outside_the_instance_is_named_and_not_proved(make, named, in_other_processes):
    """A6: a counter that shows only after the self-test's horizon."""
    env = CaptureWrapper(make())
    env.reset(seed=0)
    # what code assigns is known before it has changed
    assert env.coverage()["not_captured"] == ([named] if make is worlds.GlobalCounter else [])
    env.step(1)
    assert env.coverage()["not_captured"] == [named]
    for verdict in (prove_instances(make(), make()), in_other_processes(make.__name__)):
        assert not verdict.proved
        assert f"{named} is not captured" in verdict.reason


def test_iterators_outside_the_instance_are_named_at_once():
    """A6: how far they have come cannot be seen."""
    env = CaptureWrapper(worlds.Shared())
    env.reset(seed=0)
    assert env.coverage()["not_captured"] == ["class attribute Shared.sides", "global worlds.LEVELS"]


def test_a_log_file_is_no_iterator(tmp_path):
    """A6: a warning about everything would be none."""
    with (tmp_path / "log.txt").open("w") as log:
        world = worlds.Dated()
        world.log = log
        env = CaptureWrapper(world, "replay")
        env.reset(seed=0)
        assert env.coverage()["not_captured"] == []


def test_the_protocol_may_take_care_of_what_lies_on_the_class(in_other_processes):
    """A6: it is the way out that the user is told of."""
    env = CaptureWrapper(worlds.SpokenCounter())
    env.reset(seed=0)
    env.step(1)
    assert env.coverage() == {"strategy": "protocol", "not_captured": []}
    verdict = in_other_processes("SpokenCounter")
    assert (verdict.strategy, verdict.proved) == ("protocol", True), verdict


def test_constants_and_tables_that_the_first_reset_loads_are_no_state(in_other_processes):
    """A6: a warning about everything would be none."""
    verdict = in_other_processes("Lazy")
    assert (verdict.strategy, verdict.proved) == ("attributes", True), verdict
