"""Traces read back and compared, and causes judged, from traces made by hand (A18)."""

import pytest

from unbroken.proving import causes
from unbroken.proving.causes import Evidence, Hidden, likely_causes
from unbroken.proving.comparing import (
    Compared,
    Difference,
    Divergence,
    component_of,
    first_divergence,
    hidden_differences,
    matching_cuts,
    unseeded_workers,
)
from unbroken.proving.reading import Follower, Index, Way
from unbroken.proving.running import _kills, _moments


def diverged(twin, other, number=2):
    return first_divergence(Index(twin), other, number, Compared())


def test_a_torn_last_line_is_left_out_until_it_is_whole(leg, step):
    """A18: SIGKILL may tear the line that is being written."""
    read = leg("one", step(1, reward=1), tail='{"event": "step", "call": "a#0", "st')
    assert (read.step, [key for key, _, _ in read.events()]) == (1, [("a#0", "step", 1, "")])
    with read.path.open("a") as file:
        file.write('ep": 2, "at": 1.0, "values": {}}\n')
    read.read_on()
    assert read.step == 2


def test_a_follower_waits_for_the_next_process(leg, step, tmp_path):
    """A18: the traces of earlier legs lie in the same folder."""
    leg("1", step(7, reward=1))
    follower = Follower(tmp_path)
    assert follower.poll().step == 0
    leg("2", step(3, reward=1))
    assert follower.poll().step == 3


def test_the_first_event_that_differs_is_the_divergence(leg, step, cut):
    """A18: by the order in which things happened, with both values; what only one of the two has says nothing."""
    twin = leg("twin", cut(0, {"a": "1"}), step(1, reward=1), step(2, reward=2), step(3, reward=3))
    same = leg("same", cut(2, {"a": "9"}), step(3, reward=3), step(4, reward=4))
    assert diverged(twin, same) is None
    other = leg("other", step(2, reward=2), step(3, reward=5))
    found = diverged(twin, other)
    assert (found.step, found.leg, found.differences) == (3, 2, (Difference("reward", "reward", "3", "5"),))
    compared = Compared()
    first_divergence(Index(twin), same, 2, compared)
    assert (compared.steps, compared.cuts) == (1, 0)


def test_rows_logged_at_the_same_step_are_told_apart(leg, step):
    """A18: an evaluation logs at a step at which the training logs too."""
    rows = step(8, "log", evaluation=1), step(8, "log", loss=2)
    assert diverged(leg("twin", *rows), leg("same", *rows)) is None
    found = diverged(leg("twin", *rows), leg("other", rows[0], step(8, "log", loss=3)))
    assert found.differences == (Difference("logged value", "loss", "2", "3"),)


def test_states_differ_by_component_and_a_lost_state_is_known_at_the_resume(leg, cut):
    """A18: component by component; the learning rate stands before the weights that it makes."""
    first = {"tensors.policy.action_net.bias": "0", "tensors.policy.optimizer.param_groups[0].lr": "1"}
    second = {"tensors.policy.action_net.bias": "5", "tensors.policy.optimizer.param_groups[0].lr": "2"}
    found = diverged(leg("twin", cut(64, first)), leg("other", cut(64, second)))
    assert [one.component for one in found.differences] == ["optimizer", "weights"]
    assert found.right_after_resume
    assert not diverged(leg("twin", cut(64, first)), leg("other", cut(64, second)), number=1).right_after_resume


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("tensors.policy.optimizer.state.0.exp_avg", "optimizer"),
        ("tensors.policy.action_net.weight", "weights"),
        ("state.replay_buffer.observations", "replay buffer"),
        ("state.environment.layers[0].attributes.obs_rms.mean", "normalisation"),
        ("state.environment.layers[0].attributes.returns", "normalisation"),
        ("state.environment.environments[0].episode_returns[...]", "environment"),
        ("state.generators.torch", "random number generators"),
        ("state.callbacks.callback.history", "callbacks"),
        ("state.logger.name_to_value", "logger"),
        ("state.model.num_timesteps", "counters"),
    ],
)
def test_leaves_are_named_as_parts_of_a_training(name, component):
    """A18: weights, optimizers, replay rows, normalisation, generators, environment, callbacks, logger, counters."""
    assert component_of(name) == component


def test_generators_of_workers_that_nobody_seeds_are_told_from_a_difference(leg, cut, step):
    """A18: they differ in every two processes, and as long as no step does, the training is the same."""
    place = "state.environment.environments[0].process.python[1]"
    twin = leg("twin", cut(0, {place: "1", "tensors.a": "1"}), step(1, reward=1))
    other = leg("other", cut(0, {place: "2", "tensors.a": "1"}), step(1, reward=1))
    assert diverged(twin, other).differences[0].component == "worker processes' generators"
    assert unseeded_workers(twin, other) == {place}
    assert first_divergence(Index(twin), other, 1, Compared(), None, {place}) is None
    drawn = leg("drawn", cut(0, {place: "3", "tensors.a": "1"}), step(1, reward=2))
    assert first_divergence(Index(twin), drawn, 1, Compared(), None, {place}).differences[0].component == "reward"


def test_hidden_state_is_compared_where_both_have_it(leg, cut):
    """A18: what is outside of every capture."""
    twin = leg("twin", cut(64, {}, {"global m.a": "1", "global m.gone": "1"}))
    other = leg("other", cut(32, {}), cut(64, {}, {"global m.a": "2", "global m.new": "1"}))
    ((place, _, difference),) = hidden_differences(*next(matching_cuts(twin, other)))
    assert (place, difference.undisturbed, difference.resumed) == ("global m.a", "1", "2")


def test_the_cost_of_a_kill_is_told_from_the_traces(leg, cut, step):
    """A18: seconds since the state was reached from which the next leg goes on, and until it makes its first step."""
    before = leg("1", cut(0, {}), step(1, a=1), cut(64, {}), step(65, a=1), step(66, a=1))
    after = leg("2", cut(64, {}), step(65, a=1))
    (kill,) = _kills([before, after], [10.0, 20.0], Way(before))
    assert (kill.step, kill.resumed_at, kill.steps_repeated) == (66, 64, 2)
    # the state of step 64 was event number 2, at second 2; the next leg's first step has second 1
    assert (kill.seconds_repeated, kill.seconds_to_resume) == (8.0, -9.0)


def test_steps_are_counted_over_all_loops_of_a_script(leg, cut, step):
    """A18: one model after the other, or a second learn() that counts from 0 again: the same step is not the same place."""
    second = [
        (event, number, {**content, "call": "b#0"}) for event, number, content in (cut(0, {}), step(50, reward=9))
    ]
    twin = leg("twin", cut(0, {}), step(100, reward=1), step(50, reward=1), step(100, reward=1), *second)
    way = Way(twin)
    assert (way.steps, way.at("a#0", 30), way.at("b#0", 30)) == (150, 30, 130)
    assert way.passed(twin) == 150
    other = leg("other", *second[:1], (*second[1][:2], {**second[1][2], "values": {"reward": ["8", "8"]}}))
    found = first_divergence(Index(twin), other, 2, Compared(), way)
    assert (found.call, found.step, found.passed) == ("b#0", 50, 150)
    assert found.differences == (Difference("reward", "reward", "9", "8"),)


def test_kills_are_spread_over_the_way_and_repeat_with_their_seed():
    """A18: seeded random moments."""
    import random

    moments = _moments(1000, 10, random.Random(4))
    assert moments == sorted(moments) == _moments(1000, 10, random.Random(4))
    assert moments != _moments(1000, 10, random.Random(5))
    assert 1 <= moments[0] <= 95
    assert 855 <= moments[-1] <= 950


WEIGHTS = Difference("weights", "tensors.policy.bias", "1", "2")
RATE = Difference("optimizer", "tensors.policy.optimizer.param_groups[0].lr", "1", "2")
SEEN = Difference("observation", "observation", "1", "2")


def evidence(difference, *, at_once=False, **words):
    return Evidence(Divergence(2, 64, "in the state", 32, (difference,), at_once), **words)


def hidden(place, kind, *roles):
    return Hidden(place, kind, roles or ("script",), Difference(kind, place, "1", "2"), 32)


CLOCKS = (
    {"role": "environment", "function": "Env.step (a.py:3)", "clock": "time.time"},
    {"role": "schedule", "function": "falling (a.py:9)", "clock": "time.time"},
)


@pytest.mark.parametrize(
    ("given", "cause", "seen"),
    [
        (evidence(RATE, clocks=CLOCKS), causes.CLOCK, "falling"),
        (evidence(SEEN, clocks=CLOCKS), causes.CLOCK, "Env.step"),
        (evidence(RATE, resumed=False, clocks=CLOCKS), causes.CLOCK, "falling"),
        (evidence(WEIGHTS, threads=(1, 4), clocks=CLOCKS), causes.THREADS, "1 in the undisturbed"),
        (evidence(WEIGHTS, hidden=(hidden("g.mark", "value"),), threads=(1, 4)), causes.THREADS, "1 in"),
        (evidence(WEIGHTS, hidden=(hidden("g.mark", "value"),)), causes.SCRIPT, "g.mark"),
        (evidence(WEIGHTS, hidden=(hidden("g.r", "generator"), hidden("g.o", "optimizer"))), causes.OPTIMIZER, "g.o"),
        (
            evidence(SEEN, hidden=(hidden("g.o", "optimizer"), hidden("g.r", "generator", "environment"))),
            causes.RNG,
            "g.r",
        ),
        (evidence(SEEN, hidden=(hidden("g.v", "value", "environment"),)), causes.ENVIRONMENT, "g.v"),
        (evidence(SEEN), causes.ENVIRONMENT, "answered otherwise"),
        (evidence(SEEN, missing=("environment 0: an iterator",)), causes.ENVIRONMENT, "not captured: environment 0"),
        (evidence(WEIGHTS, missing=("callback x: closure with state",)), causes.CALLBACK, "closure"),
        (evidence(WEIGHTS, at_once=True), causes.RESTORED, "tensors.policy.bias"),
        (evidence(WEIGHTS), causes.UNKNOWN, "weights differs first"),
        (evidence(WEIGHTS, resumed=False, hidden=(hidden("g.r", "generator"),)), causes.SEED, "g.r"),
        (evidence(SEEN, resumed=False, unseeded_workers=True, clocks=CLOCKS), causes.SEED, "worker processes"),
        (evidence(WEIGHTS, failure="exit code 1", hidden=(hidden("g.o", "optimizer"),)), causes.FAILED, "exit code 1"),
    ],
)
def test_the_likeliest_cause(given, cause, seen):
    """A18: what was seen to differ counts more than code that was found, and that more than nothing."""
    first = likely_causes(given)[0]
    assert first.name == cause
    assert seen in first.seen
