"""Real trainings on slow environments, really killed in the middle of a rollout (A5, A6)."""

import signal
import sys

import pytest
from journal_runs import BASIC, PPO, SUPPORT, reach, says, taken_over

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

ROLLOUT = ["--set", "hyperparameters.n_steps=32", *BASIC, *PPO, "--save-seconds", "0.3"]
# one rollout until the target
WHOLE = ["--set", "hyperparameters.n_steps=96"]


def test_a_kill_in_the_middle_of_a_rollout_loses_no_more_than_save_seconds(place):
    """A5, A6: PPO where a step takes a second, killed at the eighth step of a rollout of twelve."""
    words = ["journal_worlds:Drifting", "--steps", 24, "--set", "hyperparameters.n_steps=12", *BASIC, *PPO]
    words += ["--set", "hyperparameters.batch_size=12"]
    place.twin(*words)
    words += ["--save-seconds", 3]
    first = place.start(*words, seconds=1.0)
    place.after_steps(first, 20)
    first.kill()
    made = place.steps_made
    last = place.finish(*words, seconds=1.0)
    assert last.resumed_at == 12
    assert made - (12 + taken_over(last)) <= 3
    assert place.steps_made <= 24 + 3
    assert place.differences() == []


@pytest.mark.parametrize(
    ("world", "more"),
    [
        ("Drifting", ["--n-envs", 2, "--set", "environment.vec_env=subproc"]),
        ("Drifting", ["--set", "environment.normalize={}", "--set", "environment.frame_stack=3", "--n-envs", 2]),
        ("Masked", ["--algo", "maskable_ppo"]),
        ("Drawing", []),
        ("Drifting", ["--set", "callbacks=[journal_worlds:Blows]"]),
        ("Drifting", ["--algo", "recurrent_ppo"]),
        ("Telling", [*WHOLE, "--set", "callbacks=[journal_worlds:Hears]"]),
        ("Telling", [*WHOLE, "--set", "callbacks=[journal_worlds:Hears]", "--set", "environment.vec_env=subproc"]),
        ("Attached", [*WHOLE, "--set", "callbacks=[journal_worlds:Hears]"]),
        ("Drifting", [*WHOLE, "--set", "callbacks=[journal_worlds:Reseeds]"]),
        ("Drifting", [*WHOLE, "--eval-every", 12, "--eval-episodes", 1]),
    ],
    ids=[
        "workers",
        "normalised and stacked",
        "maskable",
        "global generators",
        "callback that asks",
        "recurrent",
        "infos of resets",
        "infos of resets in a worker",
        "infos with objects",
        "seeded again",
        "evaluated twice",
    ],
)
def test_killed_in_a_rollout_and_ended_like_the_twin(place, world, more):
    """A5, A6: whatever lies between the environments and the learner, the end has the twin's bits."""
    words = [f"journal_worlds:{world}", "--steps", 96, *ROLLOUT, *more]
    place.twin(*words)
    first = place.start(*words, seconds=0.03)
    place.after_point(first, 40)
    first.kill()
    last = place.finish(*words, seconds=0.001)
    assert taken_over(last) > 0
    assert place.differences() == []


@pytest.mark.parametrize("world", ["Drawing", "Drifting"])
def test_the_journal_goes_on_over_cuts_that_save_nothing_and_over_legs(place, world):
    """A5, A6: updates lie between the checkpoint and the last point; killed twice, the second leg goes on in the same file."""
    words = [f"journal_worlds:{world}", "--steps", 128, *BASIC, *PPO, "--set", "hyperparameters.n_steps=16"]
    place.twin(*words)
    words += ["--save-seconds", 1]
    first = place.start(*words, seconds=0.04)
    kept = place.after_point(first, 40)
    first.kill()
    second = place.start(*words, seconds=0.04)
    point = place.after_point(second, kept + 16)
    second.kill()
    assert second.resumed_at == 0
    assert taken_over(second) >= kept
    last = place.finish(*words, seconds=0.001)
    assert taken_over(last) == point - last.resumed_at
    assert place.differences() == []


def test_a_run_that_had_ended_has_a_journal_when_it_goes_on(place):
    """A5, A6: the checkpoint at its end is what the journal begins at."""
    words = ["journal_worlds:Drawing", *ROLLOUT]
    for runs in ("twin", "runs"):
        assert place.start(*words, "--steps", 32, runs=runs).wait(60) == 0
    place.twin(*words, "--steps", 96)
    first = place.start(*words, "--steps", 96, seconds=0.03)
    point = place.after_point(first, 40)
    first.kill()
    last = place.finish(*words, "--steps", 96, seconds=0.001)
    assert (last.resumed_at, taken_over(last)) == (32, point - 32)
    assert place.differences() == []


def test_a_kill_while_the_next_checkpoint_is_written_reads_both_files(place):
    """A5, A6: the capture at step 32 never becomes a checkpoint; the journal leads from step 0 over it."""
    words = ["journal_worlds:Drawing", "--steps", 96, *ROLLOUT]
    place.twin(*words)
    first = place.start(*words, seconds=0.03, command=(str(SUPPORT / "slow_commit.py"),))
    point = place.after_point(first, 40)
    assert point < 64
    first.kill()
    assert len(place.files) == 2
    last = place.finish(*words, seconds=0.001)
    assert last.resumed_at == 0
    assert taken_over(last) == point
    assert place.differences() == []


@pytest.mark.parametrize(
    "spot", ["journal.before:4", "journal.half:1", "journal.half:4", "journal.sync:3", "checkpoint.replace:2"]
)
def test_killed_while_a_file_is_written(place, spot):
    """A5, A7: at every place of a write there is a checkpoint and a journal that is whole up to some point, or none."""
    words = ["journal_worlds:Drifting", "--steps", 96, *ROLLOUT]
    place.twin(*words)
    killed = place.start(*words, seconds=0.03, command=("-m", "unbroken.testing.kill_at"), before=(spot, "--"))
    assert killed.wait(60) == -signal.SIGKILL, killed.last_lines()
    place.finish(*words, seconds=0.001)
    assert place.differences() == []


def test_evaluation_is_not_made_twice_either(place):
    """A5, A6: killed in the middle of an evaluation of about two seconds, of which the journal has the first part."""
    words = ["journal_worlds:Drifting", "--steps", 64, *ROLLOUT, "--eval-every", 24, "--eval-episodes", 4]
    place.twin(*words)
    first = place.start(*words, seconds=0.03)
    place.after_steps(first, 24 + 30)
    assert reach(first) == 24
    first.kill()
    last = place.finish(*words, seconds=0.001)
    assert last.resumed_at == 0
    assert taken_over(last) == 24
    assert place.steps_made <= place.steps_of_twin + 12
    assert place.differences() == []


def test_an_environment_that_can_only_be_replayed_says_what_that_costs(place):
    """A5, A6: the steps of the unfinished episodes are made again; how many, and about how long it takes, is said."""
    words = ["journal_worlds:Closed", "--steps", 96, *ROLLOUT]
    place.twin(*words)
    first = place.start(*words, seconds=0.03)
    place.after_point(first, 40)
    first.kill()
    last = place.finish(*words, seconds=0.001)
    assert taken_over(last) > 0
    assert says(last, "the environment can only be replayed, so ")
    assert says(last, "of its steps are made again, about ")
    assert place.differences() == []


def test_a_target_inside_of_the_journal_is_reached_without_it(place):
    """A6: the training ends before the environments could be brought where it is; nothing of them may be saved."""
    words = ["journal_worlds:Drifting", *BASIC, *PPO, "--set", "hyperparameters.n_steps=32"]
    for target in (64, 192):
        place.twin(*words, "--steps", target)
    words += ["--save-seconds", 2]
    first = place.start(*words, "--steps", 640, seconds=0.02)
    place.after_point(first, 90)
    first.kill()
    lower = place.start(*words, "--steps", 64)
    assert lower.wait(120) == 0, lower.last_lines()
    assert says(lower, "the journal cannot be used: the training ends before it does")
    assert list((place.place / "runs" / "run" / "archive").glob("*.journal"))
    place.finish(*words, "--steps", 192)
    assert place.differences() == []


def test_a_capture_that_fails_changes_nothing_in_the_one_held_back(place):
    """A6, A7: the first checkpoint is committed long after its capture; a later one fails after it has read the networks."""
    words = ["journal_worlds:Moody", "--steps", 320, *BASIC, *PPO, "--set", "hyperparameters.n_steps=32"]
    words += ["--save-every", 150]
    place.twin(*words)
    words += ["--save-seconds", 4]
    first = place.start(*words, seconds=0.02)
    assert first.wait_for("_0_steps.zip", 60), first.last_lines()
    # a loaded machine commits the first one before it fails at the later one
    assert first.wait_for("no checkpoint could be captured: ", 60), first.last_lines()
    first.kill()
    last = place.finish(*words, seconds=0.001)
    assert last.resumed_at == 0
    assert place.differences() == []
