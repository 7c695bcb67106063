"""C1: Webster's timings of a junction are near the best: perturbed by 20 % they get worse, or, where delay is flat, no better."""

import numpy as np
import pytest

from unbroken.traffic.verification.two_phases import perturbed, webster


def test_websters_plan_by_hand():
    """L = 2 (5 - 2 + 1) = 8 s, Y = 0.8: C = 17 / 0.2 = 85 s; 77 s of effective green in proportion 5 : 3."""
    plan = webster((0.5, 0.3), lost_time=1.0)
    assert plan.cycle == pytest.approx(85.0)
    assert plan.greens == pytest.approx((77 * 5 / 8 - 1.0, 77 * 3 / 8 - 1.0))


@pytest.fixture(scope="module")
def spent():
    return perturbed((0.5, 0.3), seeds=12)


@pytest.mark.parametrize(
    ("plan", "least"), [("cycle +20 %", 0.005), ("first green -20 %", 0.2), ("first green +20 %", 0.2)]
)
def test_perturbed_timings_get_worse(spent, plan, least):
    """By `least` of all time spent on average, and under nearly every demand."""
    extra = spent[plan] - spent["Webster"]
    assert extra.mean() > least * spent["Webster"].mean()
    assert (extra > 0).sum() >= 11


def test_a_shorter_cycle_is_no_better(spent):
    """Arrivals are even within a minute, so that a cycle 20 % shorter costs next to nothing: delay is flat there."""
    extra = spent["cycle -20 %"] - spent["Webster"]
    assert np.abs(extra.mean()) < 0.01 * spent["Webster"].mean()
