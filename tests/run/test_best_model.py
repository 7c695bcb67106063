"""The best model on disk and the score that the metadata claims: in forks, and after an export that failed (A2, A9)."""

import json
import sys

import pytest

from unbroken.inspection import compare

CONFTEST = sys.modules[next(name for name in sys.modules if name.endswith("run.conftest"))]
RUN = CONFTEST.RUN
WORDS = {"eval_every": 64, "eval_episodes": 1}


@pytest.fixture
def scores(monkeypatch):
    """Sets what each evaluation finds."""

    def given(by_step):
        def episodes(judge):
            return [by_step[judge.model.num_timesteps]], [1]

        monkeypatch.setattr("unbroken.learners.evaluation.Evaluation._episodes", episodes)

    return given


def claimed(training, run):
    """Step and score in the metadata, after a check that the file and its score say the same."""
    metadata = training.metadata(run)
    folder = training.folder(run) / "best_model"
    assert (folder / "best_model.zip").exists() == (metadata["best_score"] is not None)
    if metadata["best_score"] is not None:
        written = json.loads((folder / "best_model.json").read_text())
        assert written == {"score": metadata["best_score"], "step": metadata["best_step"]}
    return metadata["best_step"], metadata["best_score"]


def test_a_fork_takes_its_parents_best_model_along(training, scores):
    """A9: no later evaluation of the fork is better; no word of metadata that a fork cannot have yet."""
    scores({64: 5.0, 128: 9.0, 192: 3.0, 256: 4.0})
    training(steps=192, **WORDS)
    training(checkpoint=f"{RUN}@192", run="fork", steps=256, **WORDS)
    assert "training_metadata.json" not in training.out
    assert claimed(training, "fork") == (128, 9.0)
    assert training.files("fork")["best_model/best_model.zip"] == training.files()["best_model/best_model.zip"]


def test_a_fork_from_before_the_best_has_none_until_it_is_evaluated(training, scores):
    """A9: the parent's best of then is gone; a lower score of the fork's own is better than no model."""
    scores({64: 5.0, 128: 1.0, 192: 9.0, 256: 9.0})
    training(steps=256, keep_last=9, **WORDS)
    scores({192: 4.0, 256: 2.0, 320: 6.0})
    training(checkpoint=f"{RUN}@128", run="fork", steps=256, eval_every=128)
    assert claimed(training, "fork") == (256, 2.0)
    training(run="fork", steps=320, eval_every=64)
    assert claimed(training, "fork") == (320, 6.0)


def test_a_best_model_that_could_not_be_written_is_tried_again(training, scores, monkeypatch):
    """A10: at the next evaluation, though it is no record; the state is that of a training on a disk with room."""
    scores({64: 5.0, 128: 4.0, 192: 3.0})
    training(steps=192, run="twin", **WORDS)

    def full(model):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("unbroken.learners.sb3.export_members", full)
        training(steps=192, dies_at=150, **WORDS)
    assert training(steps=192, **WORDS).step == 192
    assert claimed(training, RUN) == (192, 3.0)
    assert compare(training.runs, RUN, "twin").identical


@pytest.mark.parametrize("every", [64, 0])
def test_the_next_evaluation_in_the_same_leg_tries_again(training, scores, monkeypatch, every):
    """A10: with evaluation off, where every cut offers a score, the end of the leg does."""
    scores({64: 5.0, 128: 4.0, 192: 3.0})
    attempts = []

    def full_at_first(model):
        attempts.append(model.num_timesteps)
        if len(attempts) == 1:
            raise OSError(28, "No space left on device")
        return real(model)

    import unbroken.learners.sb3 as learner

    real = learner.export_members
    monkeypatch.setattr("unbroken.learners.sb3.export_members", full_at_first)
    training(steps=192, eval_every=every, eval_episodes=1)
    step, score = claimed(training, RUN)
    if every:
        assert (step, score) == (128, 4.0)
    else:
        assert attempts == [64, 192, 192]
        assert step == 192
