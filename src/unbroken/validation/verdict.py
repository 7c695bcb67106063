"""The rule in words and its digest, fixed before anything runs, and the finding that it leads to.

`judge` computes every number that a report shows of arms against each other; it looks at nothing but the comparison, so it says the
same whenever it is asked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from unbroken.validation import statistics
from unbroken.validation.guards import coincidences
from unbroken.validation.results import Arm, Comparison, Floats, Metric, Mode, Rule
from unbroken.validation.statistics import LEVEL, RESAMPLES, Estimate, Resamples, improvement_percent
from unbroken.validation.wording import QUICK, apart, counted

Verdict = Literal["met", "missed", "not judged"]
MET: Verdict = "met"
MISSED: Verdict = "missed"
NOT_JUDGED: Verdict = "not judged"
_METHOD = f"percentile bootstrap, {RESAMPLES} resamples of trainings and of seeds, {LEVEL:g} %"


@dataclass(frozen=True)
class Against:
    """The agents against one baseline, paired by seed.

    `mean` is the baseline's metric, `difference` agents less baseline, both in the metric's unit. `improvement` and
    `interquartile` (over trainings) are in % of the baseline, as is each training's in `trainings`; they are None and empty where %
    of this baseline say nothing. `probability` is the share of (training, seed) in which the agent is better.
    """

    baseline: str
    mean: Estimate
    difference: Estimate
    improvement: Estimate | None
    interquartile: Estimate | None
    trainings: tuple[float, ...]
    probability: Estimate


@dataclass(frozen=True)
class Finding:
    """What a comparison shows. `agent` is the metric over trainings and seeds, `against` has all baselines in their order."""

    scenario: str
    metric: Metric
    rule: Rule
    mode: Mode
    training_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    agent: Estimate
    against: tuple[Against, ...]
    verdict: Verdict
    reason: str
    notes: tuple[str, ...]

    @cached_property
    def ruled(self) -> Against:
        """Against the rule's baseline."""
        return next(one for one in self.against if one.baseline == self.rule.baseline)

    @cached_property
    def strongest(self) -> Against:
        """Against the baseline that is best in the mean."""
        sign = 1.0 if self.metric.lower_is_better else -1.0
        return min(self.against, key=lambda one: sign * one.mean.value)

    def plain(self) -> dict[str, Any]:
        """As plain data, with the rule in words and its digest."""
        content = asdict(self)
        content["rule"] |= {"text": describe(self.rule), "digest": digest(self.rule), "method": _METHOD}
        return content


def describe(rule: Rule) -> str:
    """The rule in words, to be printed and logged before anything runs."""
    few = f"{counted(rule.least_trainings, 'training')} or {counted(rule.least_seeds, 'seed')}"
    judged = f"Judged is {rule.judged}. " if rule.judged else ""
    return (
        f"{judged}Met if the agents' metric is better than that of {rule.baseline} by at least {rule.target_percent:g} % in the "
        f"mean over trainings and seeds, and if the whole {LEVEL:g} % interval of that improvement ({RESAMPLES:,} resamples of "
        f"trainings and of seeds) lies above {rule.interval_above_percent:g} %. Missed if not. Not judged with fewer than {few}, "
        "and never in quick mode."
    )


def digest(rule: Rule) -> str:
    """SHA-256 of the rule, what it judges, and how its interval is made: the same before a run and in its report."""
    # 15 and 15.0 in a section are one rule
    content = {name: float(value) if isinstance(value, int) else value for name, value in asdict(rule).items()}
    text = json.dumps({**content, "method": _METHOD}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def judge(comparison: Comparison, mode: Mode) -> Finding:
    """All numbers, and the rule applied to them. The comparison has passed `guards.check`; the order of plays has no effect."""
    arms = sorted(comparison.agents, key=lambda arm: arm.training_seed or 0)
    seeds = tuple(sorted(play.seed for play in arms[0].plays))
    agents = np.array([_by_seed(arm) for arm in arms])
    resamples = statistics.draw_resamples(*agents.shape)
    against = tuple(_against(comparison.metric, agents, arm, resamples) for arm in comparison.baselines)
    ruled = next(one for one in against if one.baseline == comparison.rule.baseline)
    verdict, reason = _verdict(comparison.rule, mode, agents.shape, ruled)
    return Finding(
        scenario=comparison.scenario,
        metric=comparison.metric,
        rule=comparison.rule,
        mode=mode,
        training_seeds=tuple(int(arm.training_seed or 0) for arm in arms),
        seeds=seeds,
        agent=statistics.mean(agents, resamples),
        against=against,
        verdict=verdict,
        reason=reason,
        notes=(*_limits(agents.shape), *coincidences(comparison)),
    )


def _by_seed(arm: Arm) -> Floats:
    """The metric in ascending order of seeds."""
    return np.array([play.value for play in sorted(arm.plays, key=lambda play: play.seed)])


def _against(metric: Metric, agents: Floats, arm: Arm, resamples: Resamples) -> Against:
    baseline, lower = _by_seed(arm), metric.lower_is_better
    percentages = statistics.has_percentages(baseline, resamples)
    each = improvement_percent(agents.mean(axis=1), baseline.mean(), lower_is_better=lower) if percentages else ()
    return Against(
        baseline=arm.name,
        mean=statistics.mean(baseline[None], resamples),
        difference=statistics.mean_difference(agents, baseline, resamples),
        improvement=statistics.improvement(agents, baseline, resamples, lower_is_better=lower) if percentages else None,
        interquartile=(
            statistics.interquartile_improvement(agents, baseline, resamples, lower_is_better=lower)
            if percentages
            else None
        ),
        trainings=tuple(float(value) for value in each),
        probability=statistics.probability_of_improvement(agents, baseline, resamples, lower_is_better=lower),
    )


def _verdict(rule: Rule, mode: Mode, shape: tuple[int, ...], ruled: Against) -> tuple[Verdict, str]:
    if mode == "quick":
        return NOT_JUDGED, QUICK
    counts = zip(("training", "seed"), shape, (rule.least_trainings, rule.least_seeds), strict=True)
    few = [f"{counted(there, noun)} where the rule asks for {least}" for noun, there, least in counts if there < least]
    if few:
        return NOT_JUDGED, f"Too few: {', '.join(few)}."
    found = ruled.improvement
    if found is None:
        return NOT_JUDGED, f"% of {rule.baseline} say nothing: its mean is not clear of 0."
    wrong = [*_below_target(rule, found), *_reaching_down(rule, found)]
    if wrong:
        return MISSED, f"Against {rule.baseline}: {'; '.join(wrong)}."
    return MET, (
        f"{apart(found.value, rule.target_percent)} % better than {rule.baseline}, {LEVEL:g} % interval "
        f"{apart(found.low, rule.interval_above_percent)} to {found.high:.1f} %; {rule.target_percent:g} % were asked for."
    )


def _below_target(rule: Rule, found: Estimate) -> list[str]:
    if found.value >= rule.target_percent:
        return []
    size = apart(found.value, rule.target_percent)
    better = f"{size} % better" if found.value >= 0.0 else f"{size.removeprefix('-')} % worse"
    return [f"{better} where {rule.target_percent:g} % better were asked for"]


def _reaching_down(rule: Rule, found: Estimate) -> list[str]:
    if found.low > rule.interval_above_percent:
        return []
    low = apart(found.low, rule.interval_above_percent)
    return [f"the {LEVEL:g} % interval reaches down to {low} %, not wholly above {rule.interval_above_percent:g} %"]


def _limits(shape: tuple[int, ...]) -> tuple[str, ...]:
    """What intervals do not cover."""
    n_trainings, n_seeds = shape
    notes = []
    if n_trainings == 1:
        notes.append("one training: intervals say nothing about how another training would do")
    elif n_trainings < 10:
        notes.append(
            f"with {n_trainings} trainings intervals are too narrow where trainings differ far more than seeds: with 5, simulated "
            "95 % intervals then covered 82 %"
        )
    if n_seeds == 1:
        notes.append("one seed: intervals say nothing about how other demand would do")
    return tuple(notes)
