"""What a comparison must be before anybody reads its numbers. Checks only; nothing is repaired or left out.

Two arms that are bit-identical on one seed may be so for good reasons: where next to nothing arrives, a ramp meter that never turns
red does what no control does. On every seed they may not. An agent that did bit for bit what a baseline did was not judged: either
the baseline was played in its place or it has learnt nothing else, and the numbers cannot tell these apart. Two trainings that did
bit for bit the same count for one. Two baselines may coincide, as some tuned controllers do nothing; `coincidences` names that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import combinations

from unbroken.errors import UntrustworthyComparison
from unbroken.validation.results import Arm, Comparison, Play
from unbroken.validation.statistics import has_percentage

BALANCE = 1e-6  # vehicles
SAME_TIME = 1e-6  # s; sums of time steps differ by rounding


def check(comparison: Comparison) -> None:
    """Return if the comparison can be judged.

    Raises:
        UntrustworthyComparison: no agent, or not the rule's baseline; an arm twice or without plays; a seed twice; a value that is
            not finite; vehicles that are not balanced; other seeds, decisions, seconds or demand than the first arm; seeds of
            which half or more bring nothing new; an agent that is bit-identical to another arm on all seeds; a baseline of which
            % say nothing.
    """
    for guard in GUARDS:
        guard(comparison)


def coincidences(comparison: Comparison) -> tuple[str, ...]:
    """A line for each two arms that are bit-identical on some seed."""
    lines = []
    for first, second in combinations(comparison.arms, 2):
        same = _identical(first, second)
        if same:
            where = f"{len(same)} of {len(first.plays)} seeds ({', '.join(map(str, same[:5]))}{', ...' if same[5:] else ''})"
            lines.append(f"{label(first)} and {label(second)} are bit-identical on {where}")
    return tuple(lines)


def label(arm: Arm) -> str:
    """An arm as people call it: `webster`, `agent of training 3`."""
    return f"{arm.name} of training {arm.training_seed}" if arm.is_agent else arm.name


def _has_agents(comparison: Comparison) -> None:
    if not comparison.agents:
        raise _untrustworthy(comparison, "there is no agent to compare", "train one, or take it from the cache")


def _has_baseline(comparison: Comparison) -> None:
    names = [arm.name for arm in comparison.baselines]
    if comparison.rule.baseline not in names:
        known = ", ".join(names) or "none"
        raise _untrustworthy(
            comparison, f"the rule's baseline {comparison.rule.baseline} was not played (baselines: {known})", "play it"
        )


def _has_arms_once(comparison: Comparison) -> None:
    for name, n in Counter(map(label, comparison.arms)).items():
        if n > 1:
            raise _untrustworthy(comparison, f"{name} is there {n} times and would count {n} times", "give it once")


def _has_plays(comparison: Comparison) -> None:
    for arm in comparison.arms:
        if not arm.plays or min(play.n_decisions for play in arm.plays) < 1:
            raise _untrustworthy(comparison, f"{label(arm)} was not played, or made no decision", "play every arm")


def _has_seeds_once(comparison: Comparison) -> None:
    for arm in comparison.arms:
        for seed, n in Counter(play.seed for play in arm.plays).items():
            if n > 1:
                raise _untrustworthy(
                    comparison, f"{label(arm)} has seed {seed} {n} times; one demand is no {n} samples", "give it once"
                )


def _is_finite(comparison: Comparison) -> None:
    for arm in comparison.arms:
        for play in arm.plays:
            named = {comparison.metric.name: play.value, **play.measures, "seconds": play.seconds or 0.0}
            for name, value in named.items():
                if not math.isfinite(value):
                    raise _untrustworthy(
                        comparison,
                        f"{label(arm)} has {name} = {value} on seed {play.seed}",
                        "a simulation or a metric broke; without it the mean would hide that",
                    )


def _is_balanced(comparison: Comparison) -> None:
    for arm in comparison.arms:
        for play in arm.plays:
            if play.imbalance is not None and not abs(play.imbalance) <= BALANCE:
                raise _untrustworthy(
                    comparison,
                    f"{label(arm)} loses or makes {play.imbalance:.3g} vehicles on seed {play.seed} "
                    f"(arrived - left - inside, at most {BALANCE:g})",
                    "the simulator is wrong there; its delays are too",
                )


def _has_same_seeds(comparison: Comparison) -> None:
    first, *others = comparison.arms
    expected = {play.seed for play in first.plays}
    for arm in others:
        seeds = {play.seed for play in arm.plays}
        if seeds != expected:
            seed = min(seeds ^ expected)
            having, lacking = (arm, first) if seed in seeds else (first, arm)
            raise _untrustworthy(
                comparison, f"{label(having)} has seed {seed}, {label(lacking)} has not", "play all arms on all seeds"
            )


def _has_same_horizon(comparison: Comparison) -> None:
    for one, a, other, b in _pairs(comparison):
        if a.n_decisions != b.n_decisions:
            raise _untrustworthy(
                comparison,
                f"on seed {a.seed} {label(one)} decides {a.n_decisions} times, {label(other)} {b.n_decisions} times",
                "judge all arms over the same horizon",
            )
        if not _same_time(a.seconds, b.seconds):
            raise _untrustworthy(
                comparison,
                f"on seed {a.seed} {label(one)} was judged over {_time(a)}, {label(other)} over {_time(b)}",
                "judge all arms over the same horizon",
            )


def _same_time(a: float | None, b: float | None) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= SAME_TIME


def _time(play: Play) -> str:
    return "no clock" if play.seconds is None else f"{play.seconds:,.10g} s"


def _has_same_demand(comparison: Comparison) -> None:
    for one, a, other, b in _pairs(comparison):
        if a.demand != b.demand:
            raise _untrustworthy(
                comparison,
                f"on seed {a.seed} {label(one)} met demand {a.demand[:12]}, {label(other)} {b.demand[:12]}",
                "what arrives must hang on the seed alone, not on who controls",
            )


def _has_own_seeds(comparison: Comparison) -> None:
    """A demand's text alone may be the same by chance or by nature, as that of a game which always begins alike."""
    happened: dict[int, list[str]] = {}
    for arm in comparison.arms:
        for play in arm.plays:
            happened.setdefault(play.seed, [play.demand]).append(play.digest)
    n_seeds, different = len(happened), len({tuple(all_of_it) for all_of_it in happened.values()})
    if n_seeds > 1 and 2 * different <= n_seeds:
        raise _untrustworthy(
            comparison,
            f"{n_seeds} seeds are {different} in truth: on the others every arm met and did bit for bit the same",
            "let the seed reach the environment; where nothing is random, compare one seed",
        )


def _is_no_twin(comparison: Comparison) -> None:
    for first, second in combinations(comparison.arms, 2):
        if not (first.is_agent or second.is_agent) or len(_identical(first, second)) < len(first.plays):
            continue
        agent, other = (second, first) if second.is_agent and not first.is_agent else (first, second)
        known = (
            "both play the same weights"
            if other.is_agent
            else f"{other.name} was played in its place, or it learnt just that"
        )
        raise _untrustworthy(
            comparison,
            f"{label(agent)} did bit for bit what {label(other)} did on all {len(agent.plays)} seeds",
            f"{known}; look at its weights, train on, or compare on seeds where something can be done",
        )


def _has_percentage(comparison: Comparison) -> None:
    for arm in comparison.baselines:
        if arm.name == comparison.rule.baseline and not has_percentage(arm.values()):
            raise _untrustworthy(
                comparison,
                f"{comparison.metric.name} of {arm.name} is {arm.values().mean():.3g} in the mean, not clear of 0",
                "% of it say nothing; choose a metric with a natural zero",
            )


GUARDS = (
    _has_agents,
    _has_baseline,
    _has_arms_once,
    _has_plays,
    _has_seeds_once,
    _is_finite,
    _is_balanced,
    _has_same_seeds,
    _has_same_horizon,
    _has_same_demand,
    _has_own_seeds,
    _is_no_twin,
    _has_percentage,
)


def _identical(first: Arm, second: Arm) -> list[int]:
    """Seeds on which both did bit for bit the same."""
    digests = {play.seed: play.digest for play in second.plays}
    return [play.seed for play in first.plays if digests.get(play.seed) == play.digest]


def _pairs(comparison: Comparison) -> Iterator[tuple[Arm, Play, Arm, Play]]:
    """Of each seed the first arm's play, beside every other arm's."""
    first, *others = comparison.arms
    expected = {play.seed: play for play in first.plays}
    for arm in others:
        for play in arm.plays:
            if play.seed in expected:
                yield first, expected[play.seed], arm, play


def _untrustworthy(comparison: Comparison, wrong: str, way_out: str) -> UntrustworthyComparison:
    return UntrustworthyComparison(f"{comparison.scenario}: {wrong}.\n  Way out: {way_out}.")
