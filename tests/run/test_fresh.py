"""`--fresh` repeated, as an automatic restart does: once it has begun, the same command carries it to its target (A9, A11)."""

import pytest

from unbroken.errors import DamagedFile
from unbroken.folder import RunFolder
from unbroken.inspection import compare

RUN = "CartPole-v1-ppo-seed0"
CONTINUING = "--fresh: continuing the fresh start that is under way, until its target of 320 steps"


def archived(training):
    archive = training.folder() / "archive"
    return [path for path in archive.iterdir() if path.is_dir()] if archive.is_dir() else []


def test_a_fresh_start_that_was_interrupted_is_continued_to_its_target(training):
    training(steps=320, run="twin")
    training(steps=128)
    training(steps=320, fresh=True, dies_at=70)
    assert "Starting fresh" in training.out
    training(steps=320, fresh=True, dies_at=150)
    assert CONTINUING in training.out
    assert "starting at step 0" in training.out
    training(steps=320, fresh=True, dies_at=300)
    assert CONTINUING in training.out
    assert "Resume: timestep=128" in training.out
    assert training(steps=320, fresh=True).step == 320
    assert "Resume: timestep=256" in training.out
    assert len(archived(training)) == 1
    assert compare(training.runs, RUN, "twin").identical
    assert training(steps=320, fresh=True).step == 320
    assert CONTINUING not in training.out
    assert len(archived(training)) == 2


@pytest.mark.parametrize(
    "words",
    [{"steps": 256}, {"steps": 320, "seed": 0, "settings": {"hyperparameters": {"n_steps": 32, "batch_size": 32}}}],
)
def test_another_command_starts_over(training, words):
    training(steps=320, fresh=True, dies_at=200)
    training(fresh=True, **words)
    assert "continuing the fresh start" not in training.out
    assert "Starting fresh: everything of the earlier training was moved to" in training.out


def test_a_plain_command_may_finish_the_fresh_start(training):
    """What was begun by `--fresh` is an ordinary run; at its target `--fresh` is a new wish."""
    training(steps=320, fresh=True, dies_at=200)
    assert training(steps=320).step == 320
    training(steps=320, fresh=True, dies_at=100)
    assert "Starting fresh" in training.out


def test_changed_source_of_the_environment_starts_over(training, monkeypatch):
    """A9: who edits the environment and starts afresh means the new one."""
    training(steps=320, fresh=True, dies_at=200)
    monkeypatch.setattr("unbroken.resolving.source_digest", lambda target, kwargs: "edited")
    training(steps=320, fresh=True, dies_at=100)
    assert "Starting fresh" in training.out


def test_damaged_checkpoints_do_not_hold_a_fresh_start_up(training):
    """A7, A9: the way out of a run with nothing left is `--fresh` itself."""
    training(steps=320, fresh=True, dies_at=300)
    for path in (training.folder() / "checkpoints").glob("*.zip"):
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    with pytest.raises(DamagedFile):
        training(steps=320)
    assert training(steps=320, fresh=True).step == 320
    assert "Starting fresh" in training.out


def test_half_archived_it_is_not_taken_for_one_that_has_begun(training, monkeypatch):
    """A9: killed while a finished fresh start moves to the archive for the next."""
    training(steps=320, fresh=True)
    finished = set(training.files().values())

    def killed(folder, scenario):
        moved = folder.path / "archive" / "1"
        moved.mkdir(parents=True)
        for name in ("checkpoints", "training_metadata.json"):
            (folder.path / name).rename(moved / name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "archive", killed)
        with pytest.raises(KeyboardInterrupt):
            training(steps=320, fresh=True)
    assert training(steps=320, fresh=True).step == 320
    assert "continuing the fresh start" not in training.out
    lost = finished - set(training.files().values())
    assert len(lost) <= 3, "run.yaml, rewritten without its mark, the log and the lock"
