"""When a leg can end, by what a journal has measured (A11)."""

import journal_worlds
import pytest

import unbroken
from unbroken.journal import journal, pace
from unbroken.journal.journal import Journal
from unbroken.journal.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock, to be moved by hand."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    found = Clock()
    monkeypatch.setattr(pace, "time", found)
    return found


def stepped(measured, clock, *seconds):
    for duration in seconds:
        started = clock.now
        clock.now += duration
        measured.stepped(0, started)


def test_a_leg_can_end_a_tenth_of_the_interval_after_a_cut_and_one_step_more(clock):
    """A11: until then a rollout is not left, unless it is over before."""
    measured = Pace(100.0)
    stepped(measured, clock, 1.0, 3.0, 2.0)
    assert measured.longest_wait(60.0) == 10.0 + 3.0
    assert measured.longest_wait(4.0) == 4.0
    # of a rollout that nobody has measured, nothing is known
    assert measured.longest_wait(0.0) == 13.0


def test_time_in_which_nothing_was_noted_is_no_step(clock):
    """A11: after it, the deadline is as far away as it was."""
    measured = Pace(100.0)
    stepped(measured, clock, 1.0)
    clock.now += 5000.0
    measured.noting()
    stepped(measured, clock, 1.0)
    assert measured.longest_gap == 1.0


def test_a_journal_that_begins_again_measures_anew(tmp_path, monkeypatch, clock):
    """A11: fast rollouts are not noted; with the checkpoint after a slow one it begins again."""
    made = []

    def watched(one, base):
        made.append(one)
        watch(one, base)

    watch = Journal.watch
    monkeypatch.setattr(Journal, "watch", watched)
    monkeypatch.setattr(journal, "time", clock)
    monkeypatch.setattr(journal_worlds, "time", clock)
    monkeypatch.setenv("WORLD_SECONDS", "0")
    settings = {"hyperparameters": {"n_steps": 32, "batch_size": 16, "n_epochs": 1}, "self_test": False}
    words = {"steps": 160, "save_every": 96, "save_seconds": 2, "eval_every": 0, "settings": settings}
    assert unbroken.train("journal_worlds:Pausing", run="run", runs_dir=tmp_path, **words).exit_code == 0
    assert made[0]._pace.longest_gap == pytest.approx(0.02)
