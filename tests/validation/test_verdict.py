"""The verdict is that of a rule which is written down, with a digest, before anything runs (C3, C4)."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from unbroken.testing.comparisons import sample_comparison
from unbroken.validation.results import Arm, Comparison, Metric, Play, Rule
from unbroken.validation.statistics import Estimate
from unbroken.validation.tables import plain
from unbroken.validation.verdict import describe, digest, judge
from unbroken.validation.wording import apart, number, number_interval, percent, percent_interval, share


def exact(improvements, target=15.0, above=0.0, n_seeds=12, baseline=100.0, **least):
    """A comparison in which training k is better by improvements[k] % on every seed."""

    def arm(name, value, training_seed=None):
        plays = (Play(s, value, {}, 40, 600.0, f"d{s}", f"{name}{training_seed}{s}") for s in range(n_seeds))
        return Arm(name, tuple(plays), training_seed)

    arms = [arm("fixed", baseline), *(arm("agent", baseline * (1 - x / 100), k) for k, x in enumerate(improvements))]
    return Comparison("a road", Metric("delay", "delay", "s", True), Rule("fixed", target, above, **least), tuple(arms))


def test_met():
    finding = judge(exact([20.0, 22.0, 24.0]), "full")
    assert finding.verdict == "met"
    assert finding.reason == "22.0 % better than fixed, 95 % interval 20.0 to 24.0 %; 15 % were asked for."
    assert finding.ruled.trainings == pytest.approx((20.0, 22.0, 24.0))
    assert finding.ruled.interquartile.value == pytest.approx(22.0)
    assert finding.ruled.probability.value == 1.0
    assert finding.ruled.difference.value == pytest.approx(-22.0)
    assert finding.agent.value == pytest.approx(78.0)
    assert (finding.training_seeds, finding.seeds) == ((0, 1, 2), tuple(range(12)))


def test_exactly_the_target_is_met():
    assert judge(exact([25.0, 25.0, 25.0], target=25.0), "full").verdict == "met"


def test_missed_below_the_target_and_the_reason_shows_it():
    """Rounded to one digit it would read `25.0 % where 25 % were asked for`."""
    finding = judge(exact([24.999] * 3, target=25.0), "full")
    assert finding.verdict == "missed"
    assert finding.reason == "Against fixed: 24.999 % better where 25 % better were asked for."


def test_missed_where_the_agent_is_worse():
    reason = judge(exact([-3.0] * 3), "full").reason
    assert "3.0 % worse where 15 % better were asked for" in reason
    assert "the 95 % interval reaches down to -3.0 %, not wholly above 0 %" in reason


def test_missed_where_the_interval_reaches_down():
    """One training in three that fails: the mean reaches the target, the interval does not exclude nothing."""
    finding = judge(exact([-10.0, 30.0, 40.0]), "full")
    assert finding.ruled.improvement.value == pytest.approx(20.0)
    assert finding.verdict == "missed"
    assert finding.reason == "Against fixed: the 95 % interval reaches down to -10.0 %, not wholly above 0 %."


def test_an_interval_that_begins_at_the_bound_is_not_above_it():
    assert judge(exact([25.0] * 3, above=25.0), "full").verdict == "missed"
    assert judge(exact([25.0] * 3, above=24.9), "full").verdict == "met"


@pytest.mark.parametrize(
    ("improvements", "n_seeds", "named"),
    [
        ([50.0] * 2, 12, ["2 trainings where the rule asks for 3"]),
        ([50.0] * 3, 9, ["9 seeds where the rule asks for 10"]),
        ([50.0], 1, ["1 training where", "1 seed where"]),
    ],
)
def test_too_few_are_not_judged(improvements, n_seeds, named):
    finding = judge(exact(improvements, n_seeds=n_seeds), "full")
    assert finding.verdict == "not judged"
    assert [text for text in named if text not in finding.reason] == []
    assert finding.ruled.improvement.value == pytest.approx(50.0)


def test_quick_proves_nothing_whatever_it_shows():
    finding = judge(exact([50.0] * 9, n_seeds=40), "quick")
    assert (finding.verdict, finding.reason) == (
        "not judged",
        "Quick comparison: it proves nothing, whatever it shows.",
    )


def test_more_can_be_better():
    comparison = exact([-50.0, -51.0, -49.0])
    comparison = replace(comparison, metric=replace(comparison.metric, lower_is_better=False))
    finding = judge(comparison, "full")
    assert finding.verdict == "met"
    assert finding.ruled.improvement.value == pytest.approx(50.0)
    assert finding.strongest.baseline == "fixed"


def test_all_baselines_are_compared_and_the_strongest_is_known():
    finding = judge(sample_comparison(), "full")
    assert [one.baseline for one in finding.against] == ["webster", "actuated", "max_pressure"]
    assert finding.strongest.baseline == "actuated"
    assert finding.ruled.baseline == "webster"
    assert finding.strongest.improvement.high < 0.0 < finding.ruled.improvement.low


def test_a_baseline_around_0_has_no_percentages():
    comparison = sample_comparison()
    plays = zip(comparison.arms[1].plays, np.linspace(-3.0, 4.0, 20), strict=True)
    odd = Arm("odd", tuple(replace(play, value=float(x), digest="odd") for play, x in plays))
    last = judge(replace(comparison, arms=(*comparison.arms, odd)), "full").against[-1]
    assert (last.improvement, last.interquartile, last.trainings) == (None, None, ())
    assert last.difference.low < last.difference.value < last.difference.high


def test_order_of_plays_and_agents_changes_no_bit():
    comparison = sample_comparison()
    shuffled, rng = [], random.Random(3)
    for arm in comparison.arms:
        shuffled.append(replace(arm, plays=tuple(rng.sample(arm.plays, len(arm.plays)))))
    shuffled = (*shuffled[:3], *shuffled[:2:-1])
    assert judge(replace(comparison, arms=shuffled), "full") == judge(comparison, "full")


def test_what_intervals_do_not_cover_is_noted():
    assert judge(exact([20.0], n_seeds=1), "quick").notes == (
        "one training: intervals say nothing about how another training would do",
        "one seed: intervals say nothing about how other demand would do",
    )
    assert "too narrow" in judge(sample_comparison(), "full").notes[0]
    assert judge(exact([20.0] * 10), "full").notes == ()


def test_coincidences_are_noted():
    comparison = sample_comparison()
    plays = (
        replace(comparison.arms[3].plays[0], digest=comparison.arms[0].plays[0].digest),
        *comparison.arms[3].plays[1:],
    )
    arms = (*comparison.arms[:3], replace(comparison.arms[3], plays=plays), *comparison.arms[4:])
    notes = judge(replace(comparison, arms=arms), "full").notes
    assert "webster and agent of training 0 are bit-identical on 1 of 20 seeds (2000)" in notes


def test_the_rule_in_words_has_all_its_numbers():
    text = describe(Rule("webster", 12.5, 2.0, 4, 15))
    for part in ("webster", "at least 12.5 %", "above 2 %", "4 trainings", "15 seeds", "95 %", "10,000", "quick mode"):
        assert part in text
    assert "\n" not in text


def test_the_digest_changes_with_everything_in_the_rule():
    rule = Rule("webster", 15.0)
    others = [
        Rule("none", 15.0),
        Rule("webster", 14.0),
        Rule("webster", 15.0, 1.0),
        Rule("webster", 15.0, 0.0, 4),
        Rule("webster", 15.0, 0.0, 3, 9),
        Rule("webster", 15.0, judged="delay in s"),
    ]
    assert len({digest(one) for one in (rule, *others)}) == 7
    assert digest(rule) == digest(Rule("webster", 15, 0))
    assert digest(rule) == "0af5a13112f6bcd3d98d6a3ebe722e307b441ced367be9840f4ce651db1571e5"


def test_plain_data_of_a_finding():
    content = plain(judge(sample_comparison(), "full").plain())
    assert content == json.loads(json.dumps(content, allow_nan=False))
    assert content["rule"]["digest"] == digest(sample_comparison().rule)
    assert content["rule"]["text"] == describe(sample_comparison().rule)
    assert content["against"][0]["improvement"].keys() == {"value", "low", "high"}


def test_numbers_for_people():
    assert [number(x) for x in (0.0, 1234.5678, 165.87, -0.012345, 3.0, 1e-9)] == [
        "0",
        "1,235",
        "165.9",
        "-0.01235",
        "3.000",
        "1.000e-09",
    ]
    assert number(98.765, like=165.0) == "98.8"
    assert [percent(x) for x in (12.34, -0.04, 0.0, -5.0)] == ["+12.3", "0.0", "0.0", "-5.0"]
    assert [apart(15.0, 15.0), apart(14.96, 15.0), apart(20.0, 15.0)] == ["15.0", "14.96", "20.0"]


def test_intervals_for_people():
    assert percent_interval(Estimate(34.32, 31.0, 37.59)) == "+34.3 [+31.0, +37.6]"
    assert number_interval(Estimate(165.93, 98.5, 1173.31)) == "165.9 [98.5, 1,173.3]"
    assert share(Estimate(0.85, 0.71, 0.964)) == "85 % [71, 96]"


def test_a_single_sample_has_no_interval_that_looks_certain():
    assert percent_interval(Estimate(34.32, 34.32, 34.32)) == "+34.3"
    assert number_interval(Estimate(165.93, 165.93, 165.93)) == "165.9"
    assert share(Estimate(1.0, 1.0, 1.0)) == "100 %"
