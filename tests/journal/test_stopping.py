"""A training with a journal that is asked to end need not wait for the end of its rollout (A5, A11)."""

import signal
import sys
import time

import pytest
from journal_runs import BASIC, PPO, reach, says, taken_over

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

LONG = [
    "journal_worlds:Drifting",
    "--steps",
    300,
    "--set",
    "hyperparameters.n_steps=300",
    *BASIC,
    *PPO,
    "--save-seconds",
    "2",
]


def test_a_signal_ends_the_leg_at_the_next_step_and_nothing_is_repeated(place):
    """A11: 75 long before the rollout ends; the next leg makes every remaining step once, also after a signal in a replay."""
    place.twin(*LONG)
    first = place.start(*LONG, seconds=0.05)
    place.after_steps(first, 10)
    asked = time.monotonic()
    first.signal(signal.SIGTERM)
    assert first.wait(20) == 75, first.last_lines()
    assert time.monotonic() - asked < 5
    assert says(first, "everything up to here is safe, nothing will be repeated")
    assert says(first, f"Not finished: step {reach(first)} of 300")
    last = place.finish(*LONG, seconds=0.001)
    assert last.resumed_at == 0
    assert taken_over(last) == reach(first)
    assert place.steps_made == 300
    assert place.differences() == []


def test_a_deadline_is_met_in_the_middle_of_a_rollout(place):
    """A11: the leg ends with 75 before the deadline, and the run goes on from there."""
    leg = place.start(*LONG, "--deadline", "9s", seconds=0.2)
    assert leg.wait_for("starting at step 0")
    began = time.monotonic()
    assert leg.wait(30) == 75, leg.last_lines()
    assert time.monotonic() - began < 9.5
    assert says(leg, "the deadline is near")
    last = place.finish(*LONG, seconds=0.001)
    assert taken_over(last) == reach(leg) > 0
    assert place.steps_made == 300
