"""How a leg ends other than at its target, and what is touched before it is known to begin (A2, A8, A9, A10, A11)."""

import pytest
from stable_baselines3.common.callbacks import BaseCallback

from unbroken.errors import ConfigurationError, IncompatibleRun, StorageError, UsageError
from unbroken.folder import RunFolder
from unbroken.stopping import StopNow

RUN = "CartPole-v1-ppo-seed0"


class SaysEnough(BaseCallback):
    """Returns False at step 200, as a callback for early stopping does."""

    def _on_step(self):
        return self.num_timesteps < 200


class Interrupts(BaseCallback):
    """Stands for the second Ctrl-C at a step of its own."""

    at = 0

    def _on_step(self):
        if self.num_timesteps == type(self).at:
            raise StopNow("SIGINT again")
        return True


def callbacks(*classes):
    return {"callbacks": [f"{cls.__module__}:{cls.__name__}" for cls in classes]}


def data(files):
    """The files but those that every start writes to."""
    return {name: content for name, content in files.items() if name not in (".lock", "logs/run.log")}


def test_a_callback_that_stops_the_training_is_not_the_target(training):
    """A4, A5: exit code 4, no final model, a checkpoint at that step; a changed command goes on from there."""
    outcome = training(steps=640, settings=callbacks(SaysEnough))
    assert (outcome.step, outcome.exit_code, outcome.reason) == (200, 4, "stopped by a callback")
    assert "a callback stopped the training at step 200, before its target of 640 steps" in training.out
    assert training.checkpoints() == [128, 200]
    assert not (training.folder() / "CartPole-v1_final.zip").exists()
    assert training.metadata()["target_reached"] is False
    assert training(steps=384).exit_code == 0
    assert "Resume: timestep=200" in training.out


def test_the_same_command_after_a_callbacks_stop_does_nothing(training):
    """A4, A11: not one step more each time; a changed target goes on, and a fork that is asked for too."""
    training(steps=640, settings=callbacks(SaysEnough))
    before = data(training.files())
    for _ in range(2):
        outcome = training(steps=640, settings=callbacks(SaysEnough))
        assert (outcome.step, outcome.exit_code, outcome.reason) == (200, 4, "stopped by a callback")
        assert (
            "A callback stopped the training at step 200, before its target of 640 steps; nothing to do" in training.out
        )
        assert data(training.files()) == before
    assert training(checkpoint="CartPole-v1-ppo-seed0@200", steps=640, settings=callbacks(SaysEnough)).step == 201
    assert training(steps=641, settings=callbacks(SaysEnough)).step == 201
    assert training(more=192, settings=callbacks(SaysEnough)).step == 202
    assert training(more=192, settings=callbacks(SaysEnough)).step == 202


@pytest.mark.parametrize(("at", "code", "line"), [(40, 1, "stopped before the first"), (150, 75, "will be repeated")])
def test_75_promises_a_checkpoint(training, monkeypatch, at, code, line):
    """A11: Ctrl-C twice before and after the first checkpoint."""
    monkeypatch.setattr(Interrupts, "at", at)
    outcome = training(steps=640, settings=callbacks(Interrupts))
    assert outcome.exit_code == code
    assert bool(training.checkpoints()) == (code == 75)
    assert line in training.out


def test_an_export_that_cannot_be_serialised_only_warns(training, monkeypatch):
    """A10: whatever kind of error it is; the training reaches its target and the state is saved."""

    def broken(model):
        raise TypeError("no plain form")

    with monkeypatch.context() as patch:
        patch.setattr("unbroken.learners.sb3.export_members", broken)
        training(steps=192, dies_at=130, eval_every=64, eval_episodes=1)
    assert "best_model/best_model.zip was not written: TypeError: no plain form; training goes on" in training.out
    assert training.checkpoints() == [128]


def test_an_export_reads_no_environment_and_no_replay_buffer(training, monkeypatch):
    """A2: the best model is what plain SB3 loads, and costs no capture of the whole training."""
    import unbroken.capture.sb3 as capture

    calls = []
    real = capture.capture_model
    monkeypatch.setattr("unbroken.learners.sb3.capture_model", lambda *a, **k: calls.append(1) or real(*a, **k))
    training(steps=128, save_every=10_000, eval_every=64, eval_episodes=1)
    # the look at the start for what cannot be captured, and the checkpoint at the end
    assert len(calls) == 2
    from stable_baselines3 import PPO

    assert PPO.load(training.folder() / "best_model" / "best_model.zip").num_timesteps in (64, 128)


@pytest.mark.parametrize(
    "words",
    [
        {"settings": {"hyperparameters": {"n_steps": 64, "learning_rat": 1}}},
        {"settings": {"hyperparameters": {"clip_range": "nonsense"}}},
        {"algo": "sac"},
        {"settings": {"callbacks": ["collections:OrderedDict"]}},
    ],
)
def test_a_fresh_start_that_cannot_begin_archives_nothing(training, words):
    """A9: the old training is put aside only when the new one is known to be possible."""
    training(steps=128)
    before = data(training.files())
    with pytest.raises((UsageError, ConfigurationError)):
        training(steps=64, fresh=True, **words)
    assert data(training.files()) == before
    assert training(steps=192).step == 192
    assert "Resume: timestep=128" in training.out


@pytest.mark.parametrize(
    "words",
    [
        {"settings": {"hyperparameters": {"n_steps": 64, "learning_rat": 1}}},
        {"algo": "sac"},
        {"settings": {"callbacks": ["collections:OrderedDict"]}},
    ],
)
def test_a_refused_first_start_leaves_no_folder(training, words):
    """A9, Issue 2 "Errors": nothing was begun, so nothing is there."""
    with pytest.raises((UsageError, ConfigurationError)):
        training(steps=64, **words)
    assert not training.runs.exists()


def test_a_refused_start_takes_only_its_own_new_folder_away(training):
    """A9: another run beside it stays, and so does a folder that was there before."""
    training(steps=64, run="other")
    training.folder("mine").mkdir()
    for run in ("mine", "new"):
        with pytest.raises(UsageError):
            training(steps=64, run=run, algo="sac")
    assert sorted(path.name for path in training.runs.iterdir()) == ["mine", "other"]
    assert training.checkpoints("other") == [64]


def test_a_folder_without_room_is_not_left_behind(tmp_path, monkeypatch):
    """A10: refused before the lock is taken."""
    monkeypatch.setattr("unbroken.folder._SPACE_NEEDED_BYTES", float("inf"))
    with pytest.raises(StorageError, match="no room for a checkpoint"):
        RunFolder(tmp_path / "runs", "run").prepare()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_even_be_looked_at_is_a_storage_error(tmp_path):
    """A10: a name that the file system does not take."""
    with pytest.raises(StorageError, match=r"cannot be written: .*; choose another with --runs-dir"):
        RunFolder(tmp_path / ("x" * 300), "run").prepare()


def test_fresh_with_only_the_runs_name_starts_the_stored_training_again(training):
    """A9: `--run NAME --fresh`, with the stored environment, algorithm and hyper-parameters."""
    training(steps=128, run="mine", seed=3)
    assert training(None, run="mine", steps=64, fresh=True).step == 64
    assert "Starting fresh" in training.out
    assert training.metadata("mine")["seed"] == 3
    assert training.checkpoints("mine") == [64]


def test_a_checkpoint_that_does_not_fit_leaves_the_curves_alone(training, monkeypatch):
    """A8, A16: rows after the checkpoint stay until a leg is known to go on from it."""
    training(steps=640, dies_at=250)
    before = data(training.files())
    assert training.rows()[-1]["step"] > training.checkpoints()[-1]

    def unfit(*_, **__):
        raise IncompatibleRun("the shapes differ")

    with monkeypatch.context() as patch:
        patch.setattr("unbroken.leg.require_same_schema", unfit)
        with pytest.raises(IncompatibleRun):
            training(steps=640)
    assert data(training.files()) == before


def test_two_starts_at_once_do_not_trip_over_the_probe(tmp_path):
    """A11: the folder is probed before the lock is taken, under a name of the process's own."""
    folder = RunFolder(tmp_path, "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".writable.4711-0.tmp").touch()
    folder.prepare()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".writable.4711-0.tmp"]
    assert folder.remove_leftovers() == [".writable.4711-0.tmp"]


def test_what_trains_nothing_changes_nothing(training):
    """A4: asking again, with another seed or a lower target by mistake, is not what a later leg continues with."""
    training(steps=256)
    before = training.files()
    assert training(steps=128, seed=5, run=RUN).exit_code == 0
    assert "nothing to do" in training.out
    assert data(training.files()) == data(before)
    training(steps=320, run=RUN)
    assert "seed:" not in training.out
