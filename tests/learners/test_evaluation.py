"""Which score is the better one (A2)."""

import math

import pytest

from unbroken.learners.evaluation import Score

NAN = math.nan


@pytest.mark.parametrize(
    ("new", "best", "beats"),
    [(1.0, None, True), (1.0, 1.0, False), (2.0, 1.0, True), (-math.inf, None, True), (1.0, -math.inf, True)],
)
def test_only_a_strictly_better_score_beats(new, best, beats):
    assert Score(new, 2).beats(None if best is None else Score(best, 1)) is beats


@pytest.mark.parametrize(("new", "best", "beats"), [(NAN, None, False), (NAN, 1.0, False), (1.0, NAN, True)])
def test_what_is_not_a_number_is_never_the_best_for_good(new, best, beats):
    """An evaluation that ends in NaN must neither become the best model nor keep every later one from it."""
    assert Score(new, 2).beats(None if best is None else Score(best, 1)) is beats
