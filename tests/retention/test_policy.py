"""Retention is a pure function of records (A2, B2)."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unbroken.errors import ConfigurationError
from unbroken.retention.policy import (
    LEFT_ALONE,
    NEWEST_VALID,
    KeepAll,
    KeepBest,
    KeepEvery,
    KeepFinal,
    KeepNewest,
    KeepPinned,
    plan,
)


@dataclass(frozen=True)
class Item:
    step: int
    sequence: int
    score: float | None = None
    tiers: frozenset[str] = frozenset()
    valid: bool | None = None

    @property
    def name(self):
        return f"sample_checkpoint_{self.step}_steps.zip"


def items(*steps):
    return [Item(step, number) for number, step in enumerate(steps)]


def kept(records, *policies):
    return [record.step for record in plan(records, policies).kept]


scores = st.none() | st.floats(-5, 5) | st.just(float("nan"))
tiers = st.frozensets(st.sampled_from(["final", "pinned", "best"]))
records_of = st.lists(
    st.builds(Item, st.integers(0, 500), st.integers(0, 99), scores, tiers, st.sampled_from([None, True, False])),
    max_size=12,
    unique_by=(lambda item: item.step, lambda item: item.sequence),
)
numbers = st.integers(1, 5)
policies_of = st.lists(
    st.one_of(
        st.builds(KeepNewest, numbers),
        st.builds(KeepEvery, st.integers(1, 200)),
        st.builds(KeepBest, numbers, st.sampled_from(["max", "min"])),
        st.just(KeepFinal()),
        st.just(KeepPinned()),
    ),
    max_size=4,
)


def test_the_newest_two_stay():
    """A2: rotated, newest 2 by default."""
    assert kept(items(100, 200, 300), KeepNewest(2)) == [200, 300]


def test_the_newest_by_commit_not_by_step():
    assert kept(items(300, 100, 200), KeepNewest(2)) == [100, 200]


def test_the_first_at_or_after_each_multiple():
    """B2: every Nth."""
    records = items(0, 40, 90, 100, 150, 310, 390, 400)
    assert list(KeepEvery(100).keeps(records).values()) == [
        "first at or after step 100",
        "first at or after step 300",
        "first at or after step 400",
    ]
    assert kept(records, KeepEvery(100)) == [100, 310, 400]


def test_the_best_by_either_mode():
    """B2: best by metric; NaN is no score; of equal ones the newer."""
    scored = [Item(1, 1, 3.0), Item(2, 2, float("nan")), Item(3, 3, 3.0), Item(4, 4, -1.0), Item(5, 5)]
    assert list(KeepBest(1).keeps(scored)) == [scored[2].name]
    assert KeepBest(2, "min").keeps(scored)[scored[3].name] == "best number 1 of 2, score -1"
    assert kept(scored, KeepBest(2)) == [1, 3, 5]


def test_final_and_pinned_stay_by_tier_or_by_name():
    records = [Item(1, 1, tiers=frozenset({"final"})), Item(2, 2, tiers=frozenset({"pinned"})), *items(3, 4, 5)[0:]]
    records = [Item(r.step, r.step, tiers=r.tiers) for r in records]
    assert kept(records, KeepFinal(), KeepPinned(frozenset({records[2].name}))) == [1, 2, 3, 5]


def test_every_reason_is_named():
    """B2: the rule that keeps each one that stays."""
    decisions = plan(items(100, 200), [KeepNewest(1), KeepEvery(100), KeepAll()]).decisions
    assert decisions[0].reasons == ("first at or after step 100", "everything is kept")
    assert decisions[1].reasons == (
        "among the newest 1",
        "first at or after step 200",
        "everything is kept",
        NEWEST_VALID,
    )


def test_without_policies_only_the_newest_valid_stays():
    """A7: never nothing to resume from; the damaged newest is left for a person."""
    records = [Item(1, 1), Item(2, 2), Item(3, 3, valid=False)]
    result = plan(records, [])
    assert [record.step for record in result.removable] == [1]
    assert result.decisions[1].reasons == (NEWEST_VALID,)
    assert result.decisions[2].reasons == (LEFT_ALONE,)


def test_damaged_ones_take_nobodys_place():
    """A7: keeping the newest 2 means 2 that can be used."""
    records = [Item(1, 1), Item(2, 2), Item(3, 3, valid=False), Item(4, 4)]
    assert kept(records, KeepNewest(2)) == [2, 3, 4]


@pytest.mark.parametrize("make", [KeepNewest, KeepEvery, KeepBest])
@pytest.mark.parametrize("number", [0, -1])
def test_a_number_below_one_is_refused(make, number):
    with pytest.raises(ConfigurationError, match=f"at least 1, not {number}"):
        make(number)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigurationError, match="mode"):
        KeepBest(1, "maximum")


@settings(max_examples=150, deadline=None)
@given(records_of, policies_of)
def test_what_must_survive_survives(records, policies):
    """A7, B2: newest valid, best, final, pinned and every unusable file stay under any combination."""
    result = plan(records, policies)
    stays = {record.name for record in result.kept}
    assert sorted(d.record.name for d in result.decisions) == sorted(record.name for record in records)
    assert {record.name for record in records if record.valid is False} <= stays
    usable = sorted((record for record in records if record.valid is not False), key=lambda record: record.sequence)
    assert {record.name for record in usable[-1:]} <= stays
    for policy in policies:
        assert set(policy.keeps(usable)) <= stays
        if isinstance(policy, KeepFinal | KeepPinned):
            tier = "final" if isinstance(policy, KeepFinal) else "pinned"
            assert {record.name for record in usable if tier in record.tiers} <= stays
        if isinstance(policy, KeepBest):
            finite = [record.score for record in usable if record.score is not None and record.score == record.score]
            best = (max if policy.mode == "max" else min)(finite, default=None)
            assert best is None or best in {record.score for record in result.kept}


@settings(max_examples=150, deadline=None)
@given(records_of, policies_of)
def test_planning_is_stable(records, policies):
    """B2: order of input does not matter, and what a plan leaves a second plan keeps."""
    result = plan(records, policies)
    assert plan(records[::-1], policies) == result
    assert plan(result.kept, policies).removable == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 500), max_size=15, unique=True), st.integers(1, 200))
def test_milestones_are_the_same_applied_one_by_one(steps, every):
    """B2: rotating at each save ends with the same milestones as rotating once."""
    records = [Item(step, number) for number, step in enumerate(sorted(steps))]
    survivors = []
    for record in records:
        survivors = plan([*survivors, record], [KeepEvery(every)]).kept
    assert survivors == plan(records, [KeepEvery(every)]).kept
