"""A comparison that cannot be trusted stops with an error that names arm, seed and numbers (C3)."""

from dataclasses import replace

import numpy as np
import pytest

from unbroken.errors import UnbrokenError
from unbroken.testing.comparisons import sample_arm, sample_comparison
from unbroken.validation import guards
from unbroken.validation.guards import UntrustworthyComparison, check, coincidences
from unbroken.validation.results import Arm, Rule


def with_arms(*arms):
    return replace(sample_comparison(), arms=tuple(arms))


def changed(arm_index, play_index, **change):
    """The sample with one play of one arm changed; arms 0 to 2 are baselines, 3 to 7 agents."""
    comparison = sample_comparison()
    arms = list(comparison.arms)
    plays = list(arms[arm_index].plays)
    plays[play_index] = replace(plays[play_index], **change)
    arms[arm_index] = replace(arms[arm_index], plays=tuple(plays))
    return replace(comparison, arms=tuple(arms))


def for_all_plays(arm_index, **change):
    comparison = sample_comparison()
    arms = list(comparison.arms)
    arms[arm_index] = replace(arms[arm_index], plays=tuple(replace(play, **change) for play in arms[arm_index].plays))
    return replace(comparison, arms=tuple(arms))


def as_another(arm_index, other_index, n=20):
    """The sample in which one arm did on its first `n` seeds bit for bit what another did."""
    comparison = sample_comparison()
    arms = list(comparison.arms)
    plays = [
        replace(play, digest=other.digest, value=other.value) if k < n else play
        for k, (play, other) in enumerate(zip(arms[arm_index].plays, arms[other_index].plays, strict=True))
    ]
    arms[arm_index] = replace(arms[arm_index], plays=tuple(plays))
    return replace(comparison, arms=tuple(arms))


def repeating(n):
    """The sample in which each `n` seeds in a row bring the same to every arm, which does the same."""
    arms = []
    for arm in sample_comparison().arms:
        first = [arm.plays[k - k % n] for k in range(len(arm.plays))]
        plays = [replace(old, seed=play.seed) for old, play in zip(first, arm.plays, strict=True)]
        arms.append(replace(arm, plays=tuple(plays)))
    return replace(sample_comparison(), arms=tuple(arms))


SAMPLE = sample_comparison().arms
AROUND_0 = replace(
    SAMPLE[0],
    plays=tuple(replace(play, value=float(x)) for play, x in zip(SAMPLE[0].plays, np.linspace(-3, 4, 20), strict=True)),
)
UNTRUSTWORTHY = {
    "no agent": ("_has_agents", with_arms(*SAMPLE[:3]), ["no agent"]),
    "no baseline": ("_has_baseline", with_arms(*SAMPLE[1:]), ["webster", "actuated, max_pressure"]),
    "a baseline twice": ("_has_arms_once", with_arms(*SAMPLE, SAMPLE[1]), ["actuated", "2 times"]),
    "a training twice": (
        "_has_arms_once",
        with_arms(*SAMPLE, replace(sample_arm("agent", 150.0, training_seed=9), training_seed=4)),
        ["agent of training 4", "2 times"],
    ),
    "no decisions": (
        "_has_plays",
        with_arms(*(replace(arm, plays=tuple(replace(p, n_decisions=0) for p in arm.plays)) for arm in SAMPLE)),
        ["webster was not played, or made no decision"],
    ),
    "a seed twice": (
        "_has_seeds_once",
        with_arms(*(replace(arm, plays=(*arm.plays, arm.plays[2])) for arm in SAMPLE)),
        ["webster", "seed 2002", "2 times"],
    ),
    "metric not a number": ("_is_finite", changed(5, 7, value=float("nan")), ["training 2", "nan", "2007"]),
    "measure infinite": (
        "_is_finite",
        changed(1, 0, measures={"cars_veh_h": float("inf")}),
        ["actuated", "cars_veh_h = inf", "2000"],
    ),
    "vehicles lost": ("_is_balanced", changed(3, 19, imbalance=2e-6), ["training 0", "2e-06 vehicles", "2019"]),
    "vehicles made": ("_is_balanced", changed(3, 19, imbalance=-2e-6), ["training 0", "-2e-06 vehicles", "2019"]),
    "balance not a number": ("_is_balanced", changed(0, 0, imbalance=float("nan")), ["webster", "nan", "2000"]),
    "a seed missing": (
        "_has_same_seeds",
        with_arms(*SAMPLE[:7], replace(SAMPLE[7], plays=SAMPLE[7].plays[:-1])),
        ["webster has seed 2019", "agent of training 4 has not"],
    ),
    "a seed more": (
        "_has_same_seeds",
        with_arms(
            *SAMPLE[:7], replace(SAMPLE[7], plays=(*SAMPLE[7].plays, replace(SAMPLE[7].plays[0], seed=7, demand="x")))
        ),
        ["agent of training 4 has seed 7", "webster has not"],
    ),
    "fewer decisions": ("_has_same_horizon", for_all_plays(5, n_decisions=40), ["300", "40", "training 2", "2000"]),
    "ten minutes against an hour": (
        "_has_same_horizon",
        for_all_plays(5, seconds=600.0),
        ["4,500 s", "600 s", "training 2"],
    ),
    "one arm without a clock": ("_has_same_horizon", for_all_plays(2, seconds=None), ["no clock", "max_pressure"]),
    "other demand": (
        "_has_same_demand",
        changed(6, 4, demand="other"),
        ["2004", "demand 2004", "other", "training 3"],
    ),
    "seeds that reach nobody": ("_has_own_seeds", repeating(20), ["20 seeds are 1 in truth"]),
    "seeds of which half repeat": ("_has_own_seeds", repeating(2), ["20 seeds are 10 in truth"]),
    "a baseline in the agent's place": (
        "_is_no_twin",
        as_another(5, 0),
        ["agent of training 2", "webster", "all 20 seeds"],
    ),
    "another baseline in its place": ("_is_no_twin", as_another(5, 2), ["agent of training 2", "max_pressure"]),
    "one training for another": ("_is_no_twin", as_another(5, 3), ["training 0", "training 2", "all 20 seeds"]),
    "% of nothing": ("_has_percentage", with_arms(AROUND_0, *SAMPLE[1:]), ["delay_veh_h", "webster", "0.5"]),
}


@pytest.mark.parametrize(("guard", "comparison", "named"), UNTRUSTWORTHY.values(), ids=UNTRUSTWORTHY)
def test_stops_and_names_what_is_wrong(guard, comparison, named):
    with pytest.raises(UntrustworthyComparison) as caught:
        check(comparison)
    message = str(caught.value)
    assert message.startswith("traffic_light_control: ")
    assert [text for text in named if text not in message] == []
    assert "Way out: " in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(("guard", "comparison", "named"), UNTRUSTWORTHY.values(), ids=UNTRUSTWORTHY)
def test_only_this_guard_stops_it(guard, comparison, named, monkeypatch):
    """Without the guard the comparison passes: the test above can fail."""
    others = tuple(one for one in guards.GUARDS if one.__name__ != guard)
    assert len(others) == len(guards.GUARDS) - 1
    monkeypatch.setattr(guards, "GUARDS", others)
    check(comparison)


def test_every_guard_is_tested():
    assert {one.__name__ for one in guards.GUARDS} == {guard for guard, _, _ in UNTRUSTWORTHY.values()}


def test_an_arm_without_plays():
    with pytest.raises(UntrustworthyComparison, match="agent of training 9 was not played"):
        check(with_arms(*SAMPLE, Arm("agent", (), 9)))


def test_the_error_fits_into_the_tree():
    assert issubclass(UntrustworthyComparison, UnbrokenError)
    assert issubclass(UntrustworthyComparison, ValueError)
    assert UntrustworthyComparison.exit_code == 65


def test_good_comparisons_pass():
    check(sample_comparison())
    check(sample_comparison(agents=(160.0,), seeds=range(1)))
    check(for_all_plays(2, imbalance=None))
    check(for_all_plays(2, imbalance=1e-6))


def test_a_game_that_always_begins_alike():
    """Seeds differ in what happens later; a few may even coincide."""
    check(with_arms(*(replace(arm, plays=tuple(replace(p, demand="d") for p in arm.plays)) for arm in SAMPLE)))
    arms = [replace(a, plays=(*a.plays[:-1], replace(a.plays[0], seed=2019))) for a in SAMPLE]
    check(with_arms(*arms))


def test_a_deterministic_agent_beside_a_random_baseline():
    arms = [replace(arm, plays=tuple(replace(p, demand="d") for p in arm.plays)) for arm in SAMPLE]
    agents = [
        replace(arm, plays=tuple(replace(p, digest=f"{arm.training_seed}") for p in arm.plays)) for arm in arms[3:]
    ]
    check(with_arms(*arms[:3], *agents))


def test_rounding_of_time_is_no_other_horizon():
    check(for_all_plays(2, seconds=4500.0 + 1e-9))


def test_without_clocks():
    check(with_arms(*(replace(arm, plays=tuple(replace(p, seconds=None) for p in arm.plays)) for arm in SAMPLE)))


def test_some_equal_seeds_are_no_twin_but_named():
    """Where next to nothing arrives an agent may do what no control does."""
    comparison = as_another(5, 0, n=19)
    check(comparison)
    (line,) = coincidences(comparison)
    assert "webster and agent of training 2 are bit-identical on 19 of 20 seeds (2000, 2001" in line


def test_a_single_seed_on_which_agent_and_baseline_coincide():
    one = sample_comparison(agents=(160.0,), seeds=range(1))
    agent = replace(one.arms[3], plays=(replace(one.arms[3].plays[0], digest=one.arms[0].plays[0].digest),))
    with pytest.raises(UntrustworthyComparison, match="all 1 seeds"):
        check(replace(one, arms=(*one.arms[:3], agent)))


def test_baselines_may_coincide():
    """A tuned controller may do nothing; that is said, not stopped."""
    comparison = as_another(1, 0)
    check(comparison)
    assert coincidences(comparison)[0].startswith("webster and actuated are bit-identical on 20 of 20 seeds")


def test_order_of_plays_does_not_hide_a_twin():
    comparison = as_another(5, 0)
    arms = list(comparison.arms)
    arms[5] = replace(arms[5], plays=arms[5].plays[::-1])
    with pytest.raises(UntrustworthyComparison, match="bit for bit"):
        check(replace(comparison, arms=tuple(arms)))


def test_other_baselines_may_be_around_0():
    """% of them are left out; the rule needs its own only."""
    arms = (replace(AROUND_0, name="odd"), *SAMPLE)
    check(replace(sample_comparison(), arms=arms, rule=Rule("webster", 15.0)))
